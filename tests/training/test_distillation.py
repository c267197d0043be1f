"""The distilled trunk learns its teacher's distance from pairs made of training slices."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import run
from PIL import Image
from scipy import ndimage

from scripts.method.networks.perceptual import LPIPS_MEAN, LPIPS_STD, SpatialLPIPS
from scripts.method.networks.trunks import squeezenet
from scripts.training.agreement import agreement, distance_maps, fixed_pairs, mean_agreement
from scripts.training.distillation import (
    KINDS,
    DistillationLoss,
    DistillationStep,
    PairMaker,
    SliceBatches,
    initialize,
    with_stripped,
)
from scripts.training.principal_components import PrincipalComponents

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"stem": 8, "fires": [[4, 8]] * 8}


def phantoms(count, height=64, width=64, seed=0):
    """Textured ellipses on black, (N, H, W) in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    images = []
    for _ in range(count):
        head = (y / rng.uniform(0.6, 0.9)) ** 2 + (x / rng.uniform(0.5, 0.8)) ** 2 < 1
        texture = ndimage.gaussian_filter(rng.standard_normal((height, width)), height / 25)
        images.append(head * np.clip(0.6 + 0.15 * texture / texture.std(), 0, 1))
    return np.stack(images).astype(np.float32)


@pytest.fixture(scope="module")
def slices():
    return torch.from_numpy(phantoms(20))[:, None]


@pytest.fixture
def teacher(tmp_path):
    """The teacher's architecture with random weights: a stand-in for ImageNet's."""
    torch.manual_seed(0)
    torch.save(squeezenet(LPIPS_MEAN, LPIPS_STD).state_dict(), tmp_path / "teacher.pt")
    return SpatialLPIPS("file", tmp_path / "teacher.pt")


def pair_maker(slices, **options):
    brain = torch.zeros(64, 64)
    brain[20:44, 20:44] = 1
    return PairMaker(slices, PrincipalComponents(slices), brain, **options)


def test_stripping_adds_slices_without_skull_at_the_same_brightness(slices):
    mask = torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    both = with_stripped(slices, mask)
    assert torch.equal(both[:20], slices)
    assert both[20:, :, mask == 0].abs().max() == 0
    assert torch.quantile(both[20:].flatten(1), 0.98, dim=1).numpy() == pytest.approx(1.0, abs=1e-3)


def test_pairs_follow_the_seed_and_every_other_one_is_equalised(slices):
    maker = pair_maker(slices)
    torch.manual_seed(0)
    a, b = maker(slices)
    torch.manual_seed(0)
    again = maker(slices)
    assert torch.equal(a, again[0])
    assert torch.equal(b, again[1])
    for images in (a, b):
        assert images.shape == slices.shape
        assert images.min() >= 0
        assert images.max() <= 1
        assert images[::2].amax(dim=(1, 2, 3)).eq(1).all()  # equalisation stretches
    assert (a - b).abs().amax(dim=(1, 2, 3)).gt(0).float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pair_works_alone(slices, kind):
    torch.manual_seed(0)
    a, b = pair_maker(slices, kinds=[kind], second=0.0)(slices)
    assert torch.isfinite(b).all()
    assert not torch.equal(a, b)


def test_loss_by_hand():
    """Maps of one pixel: 3 for 2 and 2 for 2, so relative errors 1/4 and 0, logarithms of 1.5 and 1."""
    teacher = torch.full((2, 1, 1, 1), 2.0)
    student = torch.tensor([3.0, 2.0]).view(2, 1, 1, 1)
    value = DistillationLoss(logarithm=0.1, floor=0.0)(student, teacher)
    assert value.item() == pytest.approx(1 / 8 + 0.1 * math.log(1.5) / 2)


def test_loss_weighs_small_distances_as_large_ones():
    teacher, student = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    loss = DistillationLoss(floor=0.0)
    assert loss(student / 100, teacher / 100).item() == pytest.approx(loss(student, teacher).item(), rel=1e-4)


def test_pairs_are_reused_as_often_as_asked(slices, teacher):
    made = []
    maker = pair_maker(slices, kinds=["noise"])
    student = initialize(SpatialLPIPS(**SMALL), teacher, slices)
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    for captured, batches in ((False, 3), (True, 8)):  # the first, then every fourth; all
        made.clear()
        step = DistillationStep(
            student, teacher, lambda x: made.append(x) or maker(x), optimizer, DistillationLoss(), captured
        )
        for _ in range(8):
            step(slices[:2])
        assert len(made) == batches


def test_a_new_student_starts_at_the_teachers_mean_distance(slices, teacher):
    torch.manual_seed(1)
    student = initialize(SpatialLPIPS(**SMALL), teacher, slices)
    a, b = slices[1:], slices[:-1]
    with torch.no_grad():
        assert student(a, b).mean().item() == pytest.approx(teacher(a, b).mean().item(), rel=0.1)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_steps_bring_the_student_closer_to_its_teacher(slices, teacher):
    torch.manual_seed(1)
    student = initialize(SpatialLPIPS(**SMALL), teacher, slices)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    maker = pair_maker(slices)
    step = DistillationStep(student, teacher, maker, optimizer, DistillationLoss())
    pairs = fixed_pairs(torch.from_numpy(phantoms(4, seed=2))[:, None], maker.components)
    targets = distance_maps(teacher, pairs)
    before = mean_agreement(agreement(distance_maps(student, pairs), targets))
    frozen = [parameter.clone() for parameter in teacher.parameters()]
    losses = [step(batch["image"])["loss"].item() for batch in SliceBatches(slices, 11, 30)]
    after = mean_agreement(agreement(distance_maps(student, pairs), targets))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert after > before
    assert all(torch.equal(a, b) for a, b in zip(frozen, teacher.parameters(), strict=True))


def test_bundle_trains_exports_and_reports(tmp_path, monkeypatch):
    """The two commands of the config on a handful of phantoms, with a random teacher."""
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i, image in enumerate(phantoms(count, 233, 197, seed=len(split))):
            Image.fromarray((image * 255).astype(np.uint8)).save(tmp_path / "data" / split / f"P{i}.png")
    torch.manual_seed(0)
    torch.save(squeezenet(LPIPS_MEAN, LPIPS_STD).state_dict(), tmp_path / "teacher.pt")
    monkeypatch.chdir(ROOT)
    arguments = {
        "config_file": [f"bundle/configs/{name}.json" for name in ("train", "distill_perceptual")],
        "bundle_root": "bundle",
        "dataset_dir": str(tmp_path / "data"),
        "teacher_weights": str(tmp_path / "teacher.pt"),
        "output_dir": str(tmp_path / "run"),
        "perceptual_file": str(tmp_path / "student.pt"),
        "device": torch.device("cpu"),
        "cuda_graph": False,
    }
    run(run_id="train", batch_size=12, steps_per_epoch=1, max_epochs=2, **arguments)
    state = torch.load(tmp_path / "student.pt", weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float16}
    last = torch.load(tmp_path / "run" / "checkpoints" / "checkpoint.pt", weights_only=True)
    assert set(last["network"]) == set(state)
    assert last["agreement"]["best"] > -1

    run(run_id="evaluate", split="test", report_file=str(tmp_path / "report.json"), **arguments)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["split"] == "test"
    assert content["images"] == 2
    assert -1 <= content["kinds"]["pca32_eq"]["spearman"] <= 1
