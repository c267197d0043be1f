"""Shifts: the lesion is painted first, the whole slice changes with its clean twin, always in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.bundle import ConfigParser
from monai.transforms import AdjustContrast, GaussianSmooth, RandBiasField, RandGaussianNoise
from scipy.ndimage import gaussian_filter
from skimage.exposure import adjust_gamma

from scripts.common.errors import PhanesInputError
from scripts.study.evaluation.shifts import Shift, ShiftChart, ShiftedBenchmark
from scripts.study.evaluation.summary import Cell
from scripts.study.evaluation.tables import Line
from scripts.training.skull import strip_skull
from tests.conftest import BUNDLE, head_slice
from tests.study.evaluation.test_runner import Squares


def heads(count: int = 2) -> torch.Tensor:
    """(N, 1, 128, 128) in [0, 1] on the network's grid, as after preprocessing."""
    slices = [np.pad(head_slice(seed).astype(np.float32) / 210.0, ((0, 0), (18, 18))) for seed in range(count)]
    square = torch.from_numpy(np.stack(slices))[:, None]
    return torch.nn.functional.interpolate(square, size=(128, 128), mode="bilinear", align_corners=False).clamp(0, 1)


def one(shift: Shift, image: torch.Tensor, subject: str = "a", seed: int = 0) -> torch.Tensor:
    return shift(image[None], image[None], [subject], seed)[0][0]


@pytest.fixture(scope="module")
def configured() -> dict[str, Shift]:
    """The shifts of evaluate_shifts.json."""
    parser = ConfigParser()
    files = ("inference.json", "mid_axial.json", "evaluate_synthetic.json", "evaluate_shifts.json")
    parser.read_config([str(BUNDLE / "configs" / name) for name in files])
    parser["bundle_root"] = str(BUNDLE)
    return {shift.name: shift for shift in parser.get_parsed_content("shifts")}


def test_skull_stripping_is_the_trainings_own(configured):
    head = heads(1)[0]
    assert torch.allclose(one(configured["skull-stripped"], head), strip_skull(head), atol=1e-6)


def normalised(image: np.ndarray) -> np.ndarray:
    """The preprocessing's rule: the 98th percentile of the middle 197 of 233 mm becomes 1."""
    return np.clip(image / np.percentile(image[:, 10:118], 98), 0, 1)


def test_contrast_is_scikit_images_gamma(configured):
    head = heads(1)[0]
    head[0, 0, 0], head[0, 64, 64:70] = 0.0, 1.0  # the whole range, which MONAI takes the exponent over
    expected = normalised(adjust_gamma(head[0].numpy(), 1.25))
    np.testing.assert_allclose(one(configured["gamma 1.25"], head)[0].numpy(), expected, atol=1e-5)


def test_blur_is_scipys_gaussian_in_millimetres(configured):
    head = heads(1)[0]
    expected = normalised(gaussian_filter(head[0].numpy(), 1.5 / (233 / 128)))
    np.testing.assert_allclose(one(configured["blur 1.5 mm"], head)[0].numpy(), expected, atol=2e-3)


def test_noise_has_the_named_strength_and_a_stronger_bias_field_changes_more(configured):
    image = torch.full((1, 128, 128), 0.5)
    for strength in (0.02, 0.05):
        noisy = one(configured[f"noise {strength}"], image)
        assert (noisy / noisy.mean()).std().item() * 0.5 == pytest.approx(strength, rel=0.03)
    head = heads(1)[0]
    fields = [one(configured[f"{name} bias field"], head)[head > 0.4] / head[head > 0.4] for name in ("weak", "strong")]
    assert 0.01 < fields[0].std() < fields[1].std()


def test_every_shift_keeps_range_mask_and_the_healthy_part_of_clean_and_lesioned_slice(configured):
    clean = heads()
    masks = torch.zeros(clean.shape, dtype=torch.bool)
    masks[:, :, 40:50, 40:50] = True  # in the brain, away from the ventricles
    images = torch.where(masks, 0.1, clean)
    for shift in configured.values():
        changed, twins = shift(images, clean, ["a", "b"], 0)
        assert twins is not None
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert not torch.equal(changed, images), shift.name
        far = ~torch.nn.functional.max_pool2d(masks.float(), 9, stride=1, padding=4).bool()
        assert torch.allclose(changed[far], twins[far], atol=1e-5), shift.name
        assert (twins - changed)[masks].mean() > 0.2, shift.name


@pytest.mark.parametrize("transform", [
    RandGaussianNoise(prob=1.0, std=0.1, sample_std=False), RandBiasField(prob=1.0, coeff_range=(-0.3, 0.3)),
])  # fmt: skip
def test_random_shifts_depend_on_subject_and_seed_alone(transform):
    shift, head = Shift("random", transform), heads(1)[0]
    batch = shift(head.expand(3, 1, 128, 128), None, ["a", "b", "c"], 0)[0]
    assert torch.equal(one(shift, head, "c"), batch[2])
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(one(shift, head, "a", 1), batch[0])


def test_a_shifted_benchmark_has_every_set_unchanged_and_under_each_shift():
    source = Squares()
    benchmark = ShiftedBenchmark(source, [Shift("dark", AdjustContrast(2.0)), Shift("same", lambda image: image)])
    names = ["squares", "squares, dark", "squares, same"]
    assert benchmark.tasks() == [(name, seed) for name in names for seed in (0, 1)]
    plain, dark = benchmark.load("squares", 1), benchmark.load("squares, dark", 1)
    assert plain.checksum == source.load("squares", 1).checksum
    assert dark.checksum == benchmark.load("squares, dark", 1).checksum != plain.checksum
    assert torch.equal(dark.masks, plain.masks)
    assert (dark.name, dark.seed) == ("squares, dark", 1)


def test_unknown_sets_and_shifts_of_one_name_are_refused():
    with pytest.raises(PhanesInputError, match="choose among squares"):
        ShiftedBenchmark(Squares(), [], "circles")
    twice = [Shift("a", GaussianSmooth()), Shift("a", GaussianSmooth())]
    with pytest.raises(PhanesInputError, match="one name \\(a, a"):
        ShiftedBenchmark(Squares(), twice)
    with pytest.raises(ValueError, match="both curve and value"):
        Shift("a", GaussianSmooth(), curve="sigma")


def test_the_chart_draws_curves_through_the_unchanged_set_and_bars_for_the_rest(tmp_path: Path, monkeypatch):
    shifts = [Shift(f"gamma {g}", AdjustContrast(g), "gamma", g) for g in (0.8, 1.25)] + [
        Shift("blur", GaussianSmooth())
    ]
    names = {"squares": 0.6, "squares, gamma 0.8": 0.5, "squares, gamma 1.25": 0.4, "squares, blur": 0.3}
    cells = [Cell(name, "a", "own.auprc", value, 0.01) for name, value in names.items()]
    drawn = {}
    monkeypatch.setattr(
        "scripts.study.evaluation.shifts.write_figure", lambda figure, path: drawn.update(figure=figure)
    )
    chart = ShiftChart(shifts, ["squares", "never run"], {"gamma": 1.0})
    chart.draw(tmp_path, cells, {"a": Line("System A", "proposed"), "b": Line("B", "baseline")})
    curve, bars = drawn["figure"].axes
    x, y = curve.lines[0].get_data()
    np.testing.assert_allclose(np.array([x, y], dtype=float), [[0.8, 1.0, 1.25], [50, 60, 40]])
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([60, 30])
    assert chart.draw(tmp_path, [], {}) is None
    monkeypatch.undo()
    path = chart.draw(tmp_path, cells, {"a": Line("System A", "proposed")})
    assert path is not None
    assert imread(path).shape[1] > 500
