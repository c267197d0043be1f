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
from scripts.training.holes import LesionHoles, PublishedHoles, StoredHoles
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
    )
    made.mask.threshold.fill_(1e6)  # nothing is above it
    return made.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, SIZE, SIZE)


def test_as_published_the_holes_are_ellipses_and_the_models_own_mask(network, images):
    image, filled, mask = PublishedHoles(network)(images).split(1, dim=1)
    assert torch.equal(image, images)
    assert torch.equal(filled[mask == 0], images[mask == 0])
    assert 0 < mask.mean() < 0.5
    network.mask.threshold.fill_(-1.0)  # everything is above it
    assert PublishedHoles(network)(images)[:, 2].min() == 1


def test_what_was_painted_and_not_found_is_what_the_generator_sees_around_the_hole(network, images):
    torch.manual_seed(1)
    image, filled, mask = LesionHoles(network)(images).split(1, dim=1)
    assert mask.max() == 0
    assert torch.equal(image, images)
    assert not torch.equal(filled, images)


def test_the_holes_are_what_the_model_finds_above_a_threshold_that_is_drawn(network, images, monkeypatch):
    network.autoencoder = Grey()
    monkeypatch.setattr(LesionHoles, "KINDS", ())
    flat = torch.cat([torch.zeros(2, 1, SIZE, SIZE // 2), torch.ones(2, 1, SIZE, SIZE // 2)], dim=3)
    _, coarse_map = network.coarse(flat)
    network.mask.threshold.copy_(coarse_map.max())
    for factor, share in ((1.0, 0.0), (0.1, 1.0)):
        monkeypatch.setattr(LesionHoles, "THRESHOLD_FACTOR", (factor, factor))
        mask = LesionHoles(network)(flat)[:, 2:]
        above = coarse_map > factor * coarse_map.max()
        assert torch.equal(mask > 0, above)
        assert (above.float().mean() > 0) == (share > 0)


def test_shares_of_painted_lesions_are_kept(network, monkeypatch):
    monkeypatch.setattr(LesionHoles, "KINDS", ((0.25, "tissue"),))
    images = torch.full((400, 1, SIZE, SIZE), 0.7)
    seen = LesionHoles(network).paint(images)
    share = (seen != images).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.08)  # 4 standard deviations of a binomial draw
    assert (seen[seen != images] < 0.7).float().mean() > 0.9


def test_stored_lessons_depend_on_the_seed_alone_and_are_exact_to_half_a_grey_level(network, images):
    data = [{"image": image.numpy()} for image in images]
    dataset = Dataset(data, RandFlipd("image", prob=0.5, spatial_axis=1))

    def stored(seed: int) -> StoredHoles:
        return StoredHoles(dataset, PublishedHoles(network), count=9, seed=seed, batch_size=4)

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
