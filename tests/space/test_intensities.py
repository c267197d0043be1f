"""The same head counted from elsewhere is the same head; padding is no tissue; a segmentation is no scan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from scripts.common.errors import PhanesInputError
from scripts.space.intensities import from_air, noise_of, padding_of, refuse_labels
from tests.conftest import head_slice
from tests.heads import small_template


def scan() -> np.ndarray:
    """A brain of 8 bits and scalp in air with a little noise; some of the air is 0."""
    volume, _ = small_template(4.0)
    air = np.abs(np.random.default_rng(0).normal(0, 2, volume.shape))
    return np.rint(volume * 4 + air).astype(np.float32)


SCAN = scan()
OUTSIDE = np.hypot(*np.meshgrid(np.linspace(-1, 1, SCAN.shape[0]), np.linspace(-1, 1, SCAN.shape[1]))).T > 1.1
OUTSIDE = np.broadcast_to(OUTSIDE[..., None], SCAN.shape)


COUNTED_FROM = [100.0, 1024.0, -1024.0]


@pytest.mark.parametrize("zero", COUNTED_FROM)
def test_a_scan_counted_from_elsewhere_is_the_same(zero: float) -> None:
    plain, air = from_air(SCAN)
    assert air == 0.0
    np.testing.assert_array_equal(plain, SCAN)
    same, found = from_air(SCAN + zero)
    assert found == zero
    np.testing.assert_array_equal(same, SCAN)


def test_z_scores_have_their_air_below_zero() -> None:
    tissue = SCAN[SCAN > 100]
    same, air = from_air((SCAN - tissue.mean()) / tissue.std())
    assert air == pytest.approx(-tissue.mean() / tissue.std())
    np.testing.assert_allclose(same * tissue.std(), SCAN, atol=1e-3)


PADDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "far below": lambda s: np.where(OUTSIDE, -2000, s),
    "-1": lambda s: np.where(OUTSIDE, -1, s),
    "-1024": lambda s: np.where(OUTSIDE, -1024, s),
    "far above": lambda s: np.where(OUTSIDE, 32767, s),
    "two below": lambda s: np.where(OUTSIDE, np.where(np.arange(s.shape[2]) % 2, -3024, -2000), s - 300) + 300,
    "both": lambda s: np.where(OUTSIDE, np.where(np.arange(s.shape[2]) % 2, 32767, -32768), s),
}


@pytest.mark.parametrize("kind", PADDINGS)
def test_padding_is_air(kind: str) -> None:
    padded = PADDINGS[kind](SCAN).astype(np.float32)
    np.testing.assert_array_equal(padding_of(padded), OUTSIDE)
    np.testing.assert_array_equal(from_air(padded)[0], np.where(OUTSIDE, 0, SCAN))


def test_the_zero_around_a_z_scored_brain_is_padding() -> None:
    brain = small_template(4.0)[0]
    inside = brain > 10
    scores = np.where(inside, (brain - brain[inside].mean()) / brain[inside].std(), 0).astype(np.float32)
    np.testing.assert_array_equal(padding_of(scores), ~inside)
    same, air = from_air(scores)
    assert air < -3
    assert same[~inside].max() == 0


@pytest.mark.parametrize(
    "volume",
    [
        SCAN,
        np.where(SCAN > 40, SCAN + 200, 0).astype(np.float32),  # a brain without dark voxels
        np.minimum(SCAN, 500),  # saturated
        (SCAN / 8).round(),
        -SCAN,
        head_slice()[..., None].astype(np.float32),
        np.full((5, 5, 5), 7, np.float32),
    ],
)
def test_what_has_no_padding_has_none(volume: np.ndarray) -> None:
    assert not padding_of(volume).any()


@pytest.mark.parametrize("depth", [SCAN.shape[2], 1])
def test_air_of_noise_as_bright_as_tissue_becomes_air(depth: int) -> None:
    """As in uniform images of MP2RAGE. The head keeps its values, but for a rim of scalp."""
    scan = SCAN[:, :, 20 : 20 + depth] if depth == 1 else SCAN
    head = ndimage.binary_closing(np.pad(scan > 60, 9), iterations=9)[9:-9, 9:-9, 9:-9] if depth > 1 else scan > 60
    head = ndimage.binary_fill_holes(head)
    noise = np.random.default_rng(0).integers(0, 1200, scan.shape)
    noisy = np.where(head, scan, noise).astype(np.float32)
    found = noise_of(noisy)
    assert found[~head].mean() > 0.95
    assert not found[ndimage.binary_erosion(head, iterations=2)].any()
    counted, air = from_air(noisy)
    assert air == pytest.approx(0, abs=10)
    assert not counted[found].any()
    np.testing.assert_allclose(counted[~found], noisy[~found] - air, atol=1e-3)


def test_other_scans_have_no_such_noise() -> None:
    normal = np.random.default_rng(0).normal(0, 0.04 * SCAN.max(), (2, *SCAN.shape))
    rician = np.hypot(SCAN + normal[0], normal[1])
    within = SCAN[12:-12, 14:-14, 8:-8]  # cut to the brain: its corners hold tissue
    for scan in (SCAN, rician, within, np.zeros((9, 9, 9)), np.full((9, 9, 1), 7.0), np.arange(27.0).reshape(3, 3, 3)):
        assert not noise_of(scan.astype(np.float32)).any()


def test_a_segmentation_is_refused_by_name() -> None:
    tissues = np.digitize(SCAN, [100, 500, 800]).astype(np.float32)
    for labels in (tissues, 1000 * tissues, (SCAN > 100).astype(np.float32), np.repeat(tissues, 2, axis=0)):
        with pytest.raises(PhanesInputError, match=r"'x.nii' holds regions of one value each, as a segmentation"):
            refuse_labels(labels, "x.nii")
    with pytest.raises(PhanesInputError, match="as a segmentation"):
        refuse_labels(np.kron(tissues[:, :, 20:21], np.ones((2, 2, 1))), "x.nii")
    for image in (
        SCAN,
        np.minimum(SCAN, 500),
        np.zeros((9, 9, 9)),
        np.repeat(SCAN, 2, axis=1),
        head_slice()[..., None],
    ):
        refuse_labels(image, "x.nii")
