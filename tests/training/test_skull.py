"""Skull stripping with the template's mask, on preprocessed slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import RandLambdad
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from scripts.training.skull import strip_skull, template_brain_mask
from tests.pipeline.test_transforms import prepared


def test_mask_is_the_templates_at_the_trained_level() -> None:
    mask = template_brain_mask(dilation=0)
    native = np.asarray(load_mni152_brain_mask(resolution=1).dataobj)[:, :, 95] > 0
    assert mask.shape == (128, 128)
    assert float(mask.float().mean()) * 233**2 == pytest.approx(native.sum(), rel=0.01)
    assert template_brain_mask(dilation=1).sum() > mask.sum()


def test_mask_lies_on_the_preprocessed_template(tmp_path: Path) -> None:
    load_mni152_template(resolution=1).to_filename(tmp_path / "template.nii.gz")
    brain = prepared(tmp_path / "template.nii.gz", slices="mid")[0, ..., 0].as_tensor() > 0.1
    mask = template_brain_mask(dilation=0)
    overlap = 2 * (brain & mask).sum() / (brain.sum() + mask.sum())
    assert float(overlap) > 0.97
    assert float((mask ^ mask.flip(0)).float().mean()) > 0.01  # front and back differ, so orientation is tested


@pytest.mark.parametrize("shape", [(1, 128, 128), (1, 128, 128, 2)])
def test_stripping_clears_the_outside_and_normalises_again(shape: tuple) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.5
    image[:, :20] = 1.0  # a bright scalp set the scale
    stripped = strip_skull(image)
    outside = ~template_brain_mask()
    assert stripped.shape == image.shape
    assert float(stripped[0][outside].max()) == 0
    assert float(stripped.max()) == 1.0
    inside = template_brain_mask() & (image.reshape(128, 128, -1)[..., 0] < 0.3)
    ratio = (stripped / image).reshape(128, 128, -1)[..., 0][inside]
    assert float(ratio.std()) < 1e-5


def test_random_stripping_happens_as_often_as_asked_and_repeats_with_the_seed() -> None:
    image = {"image": torch.ones(1, 128, 128)}
    draws = []
    for _ in range(2):
        strip = RandLambdad("image", strip_skull, prob=0.3)
        strip.set_random_state(7)
        draws.append([float(strip(image)["image"].mean()) < 1 for _ in range(100)])
    assert draws[0] == draws[1]
    assert 18 <= sum(draws[0]) <= 42


@pytest.mark.real_data
def test_stripped_training_slices_look_like_brains(data_root: Path) -> None:
    for path in sorted((data_root / "ixi_midaxial/train").glob("*.png"))[:5]:
        image = prepared(path)[..., 0]
        stripped = strip_skull(image)
        share = float((stripped > 0.2).float().mean())
        assert 0.25 < share < 0.45
