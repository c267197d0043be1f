"""A single slice is found again wherever it was moved, and never put where it fits worse than where it lay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine, from_matvec
from PIL import Image
from scipy import ndimage

from scripts.space.alignment import AlignHeadd
from scripts.space.single_slice import place_slice
from scripts.space.template import GRID_AFFINE, read_template

POINTS = np.array([[x, y, 0.0] for x in (-50, 0, 50) for y in (-80, -20, 40)])


def turned(pixels: np.ndarray, degrees: float, mm: float, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A slice of 1 mm, turned, shifted and resampled to 280 x 280 pixels of `mm`; and new -> old (row, column, 1)."""
    angle = np.radians(degrees)
    turn = mm * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = (np.array(pixels.shape) - 1) / 2 + shift - turn @ [139.5, 139.5]
    image = ndimage.affine_transform(pixels, turn, offset, output_shape=(280, 280), order=1)
    return image, from_matvec(turn, offset)


def error(found: np.ndarray, back: np.ndarray) -> float:
    """mm between where points of the brain are put and where they lie, mean."""
    old = np.stack([98 - POINTS[:, 1], POINTS[:, 0] + 98], axis=1)
    new = apply_affine(np.linalg.inv(back), old)
    put = apply_affine(found, np.c_[new, np.zeros(len(new))])
    return float(np.linalg.norm(put[:, :2] - POINTS[:, :2], axis=1).mean())


def start(mm: float) -> np.ndarray:
    """The middle of 280 x 280 pixels in the template's middle, at the paper's level."""
    return from_matvec(np.array([[0, mm, 0], [-mm, 0, 0], [0, 0, 1]]), [-139.5 * mm, 139.5 * mm - 18, 23])


def template_slice(z: int) -> np.ndarray:
    template, affine = read_template()
    section = template[:, :, int(z - affine[2, 3])].T[::-1].astype(np.float32)  # rows from anterior to posterior
    grid = np.zeros((233, 197), dtype=np.float32)
    top, left = int(98 - (affine[1, 3] + template.shape[1] - 1)), int(affine[0, 3] + 98)
    grid[top : top + section.shape[0], left : left + section.shape[1]] = section
    return grid


@pytest.mark.parametrize("z", [-6, 23, 42])
def test_a_section_of_the_template_is_found_at_its_level(z: int) -> None:
    image, back = turned(template_slice(z), 8.0, 0.9, (6.0, -5.0))
    placed = place_slice(image, (0.9, 0.9), [start(0.9)])
    assert placed is not None
    found, likeness = placed
    assert error(found, back) < 2.0
    assert found[2, 3] == pytest.approx(z, abs=4.1)
    assert likeness > 0.9


def test_what_is_found_is_at_least_as_like_the_template_as_where_it_lay() -> None:
    """From the right place, and from a wrong one beside it: the same place, as alike or more."""
    image, back = turned(template_slice(23), 0.0, 1.0, (0.0, 0.0))
    wrong = start(1.0)
    wrong[:2, 3] += 60.0
    right = np.diag([1.0, 1.0, 1.0, 1.0])
    right[np.ix_([0, 1], [0, 1, 3])] = GRID_AFFINE[np.ix_([0, 1], [0, 1, 3])] @ back
    right[2, 3] = 23.0
    alone, both = place_slice(image, (1.0, 1.0), [right]), place_slice(image, (1.0, 1.0), [right, wrong])
    assert alone is not None
    assert both is not None
    assert both[1] >= alone[1] > 0.9
    assert error(both[0], back) < 1.0


def test_noise_and_nothing_are_like_no_level() -> None:
    noise = np.random.default_rng(0).random((120, 120))
    placed = place_slice(noise, (1.5, 1.5), [start(1.5)])
    assert placed is None or placed[1] < 0.35
    assert place_slice(np.zeros((120, 120)), (1.5, 1.5), [start(1.5)]) is None


@pytest.mark.real_data
def test_padded_and_resampled_slices_lie_where_the_aligned_ones_do(data_root: Path) -> None:
    for number, name in enumerate(("IXI014", "IXI087", "IXI276")):
        pixels = np.asarray(Image.open(data_root / "ixi_midaxial" / "val" / f"{name}.png"), dtype=np.float32)
        image, back = turned(pixels, (-6.0, 4.0, 9.0)[number], 0.94, (5.0, 3.0))
        meta = {"affine": torch.diag(torch.tensor([0.94, 0.94, 1.0, 1.0])), "spacing_known": True}
        scan = MetaTensor(torch.from_numpy(image)[None, ..., None], meta=meta)
        placed = AlignHeadd(keys="image")({"image": scan})["image"]
        into_mni = np.asarray(placed.meta["placing"]) @ np.asarray(placed.affine)
        assert error(into_mni, back) < 3.0
        assert into_mni[2, 3] == pytest.approx(23, abs=6)
