"""Lessons of stage 2: what is painted, what becomes a hole, and what the generator sees."""

import pytest
import torch
from monai.data import Dataset
from monai.transforms import RandFlipd
from torch import nn

from scripts.method.filling import CoarseFilling
from scripts.method.mask_rule import CalibratedMask
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.method.phanes import Phanes
from scripts.method.refinement import Refinement, smooth
from scripts.training.holes import HoleMaker, StoredHoles
from tests.method.composed import composed

SIZE = 64


class Grey(nn.Module):
    """A first stage that draws the same healthy slice, whatever it sees."""

    def forward(self, image):
        return torch.full_like(image, 0.5)


@pytest.fixture
def network() -> Phanes:
    torch.manual_seed(0)
    autoencoder = SoftIntroVAE(image_size=SIZE, channels=(4, 8), latent_dim=6)
    made = composed(
        autoencoder,
        AOTGenerator((4, 8, 8), 1, (1, 2)),
        mask=CalibratedMask(),
        filling=CoarseFilling(0),
        refinement=Refinement(1),
    )
    made.mask.threshold.fill_(1e6)  # nothing is above it
    return made.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, SIZE, SIZE)


def test_as_published_the_holes_are_ellipses_and_the_models_own_mask(network, images):
    image, _, mask = HoleMaker(network)(images).split(1, dim=1)
    assert torch.equal(image, images)
    assert 0 < mask.mean() < 0.5
    network.mask.threshold.fill_(-1.0)  # everything is above it
    assert HoleMaker(network)(images)[:, 2].min() == 1


def test_what_was_painted_and_not_found_is_what_the_generator_sees_around_the_hole(network, images):
    torch.manual_seed(1)
    image, filled, mask = HoleMaker(network, painted={"ellipses": 1.0}, union_probability=0.0)(images).split(1, dim=1)
    assert mask.max() == 0
    assert torch.equal(image, images)
    assert not torch.equal(filled, images)


def test_united_holes_take_in_all_that_was_painted(network, images):
    torch.manual_seed(1)
    image, filled, mask = HoleMaker(network, painted={"ellipses": 1.0}, union_probability=1.0)(images).split(1, dim=1)
    assert torch.equal(filled[mask == 0], image[mask == 0])
    assert mask.max() == 1


def test_a_share_of_the_holes_is_what_the_refined_mask_finds(network, images):
    network.mask.threshold.fill_(-1.0)  # everything is above it: the first hole is the whole slice
    images = images.repeat(20, 1, 1, 1)
    with torch.no_grad():
        anomaly, _ = network.forward_with_mask(images, torch.ones_like(images))
        network.refinement.threshold.copy_(smooth(anomaly).quantile(0.999))
        refined = network.refinement(anomaly)
        again = network.refinement(network.forward_with_mask(images, refined)[0])
    assert 0 < refined.mean() < 1
    assert not torch.equal(again, refined)
    torch.manual_seed(1)
    image, filled, mask = HoleMaker(network, {"count": 0}, refined_share=0.5, refined_times=2)(images).split(1, dim=1)
    whole = (mask == 1).flatten(1).all(dim=1)
    once, twice = ((mask == expected).flatten(1).all(dim=1) for expected in (refined, again))
    assert (whole | once | twice).all()
    assert whole.float().mean() == pytest.approx(0.5, abs=0.2)
    assert once.float().mean() == pytest.approx(0.25, abs=0.2)
    assert twice.float().mean() == pytest.approx(0.25, abs=0.2)
    assert torch.equal(filled[mask == 0], image[mask == 0])


@pytest.mark.parametrize(("jitter", "share"), [((1.0, 1.0), 0.0), ((0.1, 0.1), 1.0)])
def test_the_jitter_multiplies_the_threshold(network, images, jitter, share):
    network.autoencoder = Grey()
    flat = torch.cat([torch.zeros(2, 1, SIZE, SIZE // 2), torch.ones(2, 1, SIZE, SIZE // 2)], dim=3)
    _, coarse_map = network.coarse(flat)
    network.mask.threshold.copy_(coarse_map.max())
    mask = HoleMaker(network, {"count": 0}, threshold_jitter=jitter)(flat)[:, 2:]
    above = coarse_map > jitter[0] * coarse_map.max()
    assert torch.equal(mask > 0, above)
    assert (above.float().mean() > 0) == (share > 0)


def test_shares_of_painted_lesions_are_kept(network):
    maker = HoleMaker(network, painted={"tissue": 0.25})
    images = torch.full((400, 1, SIZE, SIZE), 0.7)
    seen, lesion = maker._lesioned(images)
    share = (lesion.flatten(1).amax(dim=1) > 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.08)  # 4 standard deviations of a binomial draw
    assert (seen[lesion > 0] < 0.7).float().mean() > 0.9


def test_an_unknown_kind_of_lesion_is_named(network):
    with pytest.raises(ValueError, match="kind stripes; choose among ellipses, blobs, tissue"):
        HoleMaker(network, painted={"stripes": 1.0})


def test_a_transform_changes_slice_and_hole_alike_at_each_access(network, images):
    data = Dataset([{"image": image.numpy()} for image in images])
    kept = StoredHoles(data, HoleMaker(network), count=4)
    flip = RandFlipd(["slice", "hole"], prob=0.5, spatial_axis=1)
    changed = StoredHoles(data, HoleMaker(network), count=4, transform=flip)
    assert torch.equal(kept.lessons, changed.lessons)
    lesson, drawn = kept[1]["image"], [changed[1]["image"] for _ in range(20)]
    is_kept = [torch.equal(one, lesson) for one in drawn]
    is_mirrored = [torch.equal(one, lesson.flip(2)) for one in drawn]
    assert any(is_kept)
    assert any(is_mirrored)
    assert all(a or b for a, b in zip(is_kept, is_mirrored, strict=True))


def test_stored_lessons_depend_on_the_seed_alone_and_are_exact_to_half_a_grey_level(network, images):
    data = [{"image": image.numpy()} for image in images]
    dataset = Dataset(data, RandFlipd("image", prob=0.5, spatial_axis=1))

    def stored(seed: int) -> StoredHoles:
        return StoredHoles(dataset, HoleMaker(network), count=9, seed=seed, batch_size=4)

    state = torch.get_rng_state()
    first, second, other = stored(3), stored(3), stored(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 9
    assert torch.equal(first.lessons, second.lessons)
    assert not torch.equal(first.lessons, other.lessons)
    lesson = first[2]["image"]
    originals = torch.stack([images[2, 0], images[2, 0].flip(1)])
    assert (originals - lesson[0]).abs().flatten(1).amax(dim=1).min() <= 0.5 / 255 + 1e-6
    assert set(lesson[2].unique().tolist()) <= {0.0, 1.0}
