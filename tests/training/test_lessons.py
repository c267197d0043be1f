"""Lessons: the slice and its target differ where a lesion was painted and nowhere else; seeds repeat; frames stay."""

import pytest
import torch
from scipy import ndimage

from scripts.method.networks.restoration import COLUMNS, ROWS
from scripts.space.levels import GRID, brain_of_levels
from scripts.training import lessons as module
from scripts.training.draws import Draws, SmoothNoise, blur
from scripts.training.lessons import LessonMaker
from scripts.training.prepared import BRAIN_VALUE


@pytest.fixture(scope="module")
def brain():
    return torch.from_numpy(brain_of_levels().copy())


@pytest.fixture(scope="module")
def heads(brain):
    """Three heads: a brain of the median brightness with smooth tissue, some skull-like brightness around."""
    noise = torch.randn(3, *(n // 8 + 1 for n in GRID), generator=torch.Generator().manual_seed(0))
    tissue = torch.nn.functional.interpolate(noise[:, None], size=GRID, mode="trilinear")[:, 0]
    values = torch.where(brain, BRAIN_VALUE * (1 + 0.1 * tissue), 60.0)
    return values.clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def batch(heads, brain):
    return LessonMaker(heads, brain, seed=3)(64)


def test_shapes_and_ranges(batch):
    shape = (64, 1, ROWS[1] - ROWS[0], COLUMNS[1] - COLUMNS[0])
    assert all(tensor.shape == shape for tensor in batch[:5])
    assert batch.level.shape == (64,)
    for images in (batch.image, batch.target):
        assert images.min() >= 0
        assert images.max() <= 2
    assert batch.lesion.min() >= 0
    assert batch.lesion.max() <= 1
    assert set(batch.hole.unique().tolist()) <= {0.0, 1.0}
    assert all(tensor.isfinite().all() for tensor in batch[:5])


def test_slice_and_target_differ_where_a_lesion_was_painted_only(batch, monkeypatch, heads, brain):
    # Without blur nothing spreads beyond the lesion.
    monkeypatch.setattr(module, "SOFT", (0.0, 0.3, 0.9))
    lessons = LessonMaker(heads, brain, seed=4)(48)
    differs = (lessons.image - lessons.target).abs() > 1e-6
    assert not (differs & (lessons.lesion == 0)).any()
    assert differs.flatten(1).any(dim=1).float().mean() > 0.7


def test_lesions_lie_in_the_brain(batch):
    assert (batch.lesion * (1 - batch.brain)).max() == 0


def test_some_slices_stay_clean_and_lesions_differ_in_size(batch):
    area = (batch.lesion > 0.5).flatten(1).sum(dim=1)
    assert 1 <= (area == 0).sum() <= 24
    assert area.max() > 10 * area[area > 0].min()


def test_some_lesions_are_brighter_and_more_are_darker(batch):
    change = ((batch.image - batch.target) * (batch.lesion > 0.5)).flatten(1).sum(dim=1)
    assert 3 < (change > 1).sum() < (change < -1).sum()


def test_variety_and_dark_are_taken(heads, brain):
    """Without variety the target is the head itself, only moved; the share of dark lesions is the one asked for."""
    same = LessonMaker(heads, brain, seed=5, variety=0.0)(32)
    median = same.target[(same.brain > 0) & (same.hole == 0)].median()
    assert median == pytest.approx(1.0, abs=0.03)
    bright, dark = (LessonMaker(heads, brain, seed=5, dark=share)(128) for share in (0.1, 0.9))

    def darker(lessons):
        change = ((lessons.image - lessons.target) * lessons.lesion).flatten(1).sum(dim=1)
        return float((change[change != 0] < 0).float().mean())

    assert darker(bright) < darker(dark) - 0.3


def test_some_holes_cover_the_lesion_and_some_lie_elsewhere(batch):
    with_hole = batch.hole.flatten(1).any(dim=1)
    assert 0.1 < with_hole.float().mean() < 0.5
    share = (batch.hole * (batch.lesion > 0.5)).flatten(1).sum(dim=1) / (batch.lesion > 0.5).flatten(1).sum(dim=1)
    share = share[with_hole & (batch.lesion > 0.5).flatten(1).any(dim=1)]
    assert (share == 1).any()
    assert (share < 0.5).any()


def test_the_same_seed_gives_the_same_lessons_and_a_state_goes_on(heads, brain):
    first, second = LessonMaker(heads, brain, seed=5), LessonMaker(heads, brain, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first(4), second(4), strict=True))
    state = first.state()
    expected = first(4)
    second(4), second(4)
    second.resume(state)
    assert all(torch.equal(a, b) for a, b in zip(second(4), expected, strict=True))
    assert not torch.equal(LessonMaker(heads, brain, seed=6)(4).image, expected.image)


def test_deformed_slices_stay_in_the_template_frame(heads, brain):
    """On average the brain lies where it was: no shift, no drift of size."""
    maker = LessonMaker(heads, brain, seed=7)
    maker.heads = torch.where(maker.brain[:, 0], 100, 0).to(torch.uint8)[None]
    moved, level = maker.healthy(256)
    moved, still = moved[:, 0] > 0.5, maker.brain[level][:, 0]
    centres = [torch.tensor([ndimage.center_of_mass(image.numpy()) for image in images]) for images in (moved, still)]
    offset = centres[0] - torch.stack([centres[1][:, 0], centres[1][:, 1]], dim=1)
    assert offset.mean(dim=0).abs().max() < 0.25  # pixels
    assert offset.abs().max() < 6
    assert abs(moved.sum() / still.sum() - 1) < 0.03


def test_thick_slices_mix_neighbouring_levels(heads, brain, monkeypatch):
    monkeypatch.setattr(module, "THICK", 1.0)
    maker = LessonMaker(heads, brain, seed=8)
    monkeypatch.setattr(maker, "_moved", lambda images: images)
    maker.heads = torch.zeros_like(maker.heads)
    maker.heads[:, 40] = 100
    images, level = maker.healthy(256)
    peak = images.flatten(1).amax(dim=1)
    assert (peak[level == 40] < 1).all()
    assert (peak[(level - 40).abs() == 1] > 0).all()
    assert (peak[(level - 40).abs() > 3] == 0).all()


def test_smooth_noise_has_unit_spread_and_its_scale():
    draws = Draws(0)
    noise = SmoothNoise(draws, (112, 96), (32.0, 8.0))
    for number, scale in enumerate((32.0, 8.0)):
        fields = noise(64, number)
        assert fields.shape == (64, 1, 112, 96)
        assert 0.7 < fields.std() < 1.3
        step = (fields.diff(dim=2).square().mean() / fields.square().mean()).sqrt()
        assert 0.8 / scale < step < 2.5 / scale


def test_blur_equals_scipy_away_from_the_border():
    images = torch.rand(3, 1, 40, 36, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 1.0, 2.0]).view(-1, 1, 1, 1)
    blurred = blur(images, sigma)
    for image, width, result in zip(images[:, 0].numpy(), (0.5, 1.0, 2.0), blurred[:, 0], strict=True):
        expected = torch.from_numpy(ndimage.gaussian_filter(image, width, truncate=8))
        torch.testing.assert_close(result[16:24, 16:20], expected[16:24, 16:20], atol=1e-4, rtol=0)
    torch.testing.assert_close(blur(torch.ones(3, 1, 9, 9), sigma), torch.ones(3, 1, 9, 9))
