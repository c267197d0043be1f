"""Moved single slices: what is moved there and back is the same, and a stroke lies where its mask says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from scripts.common.errors import PhanesInputError
from scripts.study.slice_trials import SHAPE, moved, movements, slice_trials, with_stroke
from tests.conftest import head_slice


def aligned() -> np.ndarray:
    """The head of the tests with rows from anterior to posterior."""
    image = np.asarray(head_slice(), dtype=float) / 255
    return image if image.shape == SHAPE else image.T


@pytest.mark.parametrize("name", movements("a"))
def test_there_and_back_is_the_same_slice(name: str) -> None:
    image = ndimage.gaussian_filter(aligned(), 2)
    back, shape = movements("a")[name]
    there = moved(image, back, shape)
    assert there.shape == shape
    again = ndimage.affine_transform(there, np.linalg.inv(back)[:2, :2], np.linalg.inv(back)[:2, 2], SHAPE, order=1)
    assert np.abs(again - image).max() < 0.1
    assert movements("b")["320 x 320, turned, shifted and scaled"][0].tolist() != back.tolist()


def test_a_stroke_is_dark_where_its_mask_says() -> None:
    image = aligned()
    painted, mask = with_stroke(image, "a")
    assert 200 < mask.sum() < 2000  # mm2
    assert (image - painted)[mask].mean() > 0.05
    assert np.abs(image - painted)[~ndimage.binary_dilation(mask, iterations=5)].max() < 0.01


def test_without_slices_there_are_no_trials(tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="holds no PNG"):
        slice_trials(str(tmp_path))
