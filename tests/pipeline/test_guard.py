"""Real T1w heads pass the guard, at hospital contrast too; other images do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd

from scripts.common.errors import PhanesInputError
from scripts.pipeline.guard import GuardLevelsd, look_at, objection, template_levels
from scripts.pipeline.readers import CaseLoadImaged
from scripts.space.levels import LEVELS_MM, brain_of_levels
from scripts.study.guard_table import CURVES, T1W, WRONG, real_heads, verdict, wrong_images

NOISE = np.random.default_rng(0).normal(0, 0.03, (128, 128, len(LEVELS_MM))).astype(np.float32)


def head() -> np.ndarray:
    return np.clip(template_levels() + NOISE, 0, None)


@pytest.mark.parametrize("levels", [LEVELS_MM, (23.0,), (-11.0, -9.0)])
def test_the_template_is_a_head(levels: tuple[float, ...]) -> None:
    index = [LEVELS_MM.index(level) for level in levels]
    look = look_at(head()[..., index], brain_of_levels()[..., index], levels)
    assert look is not None
    assert not objection(look, whole=len(levels) > 2)
    assert look.likeness > 0.8 > look.upside_down
    template = template_levels()[..., index]
    white, grey = template[template > 0.8], template[(template > 0.5) & (template < 0.66)]
    assert look.contrast == pytest.approx(1 - np.percentile(grey, 65) / np.median(white), abs=0.03)


@pytest.mark.parametrize("kind", CURVES)
def test_another_contrast_is_none(kind: str) -> None:
    image = np.interp(head(), T1W, CURVES[kind]) + NOISE
    look = look_at(image, brain_of_levels(), LEVELS_MM)
    assert look is not None
    assert "white matter is not brighter than grey matter" in objection(look, whole=True)


def test_upside_down_and_noise_and_white_matter_alone() -> None:
    for image, reason in (
        (head()[::-1], "upside down"),
        (np.where(template_levels() > 0.75, 1, 0.1) + NOISE, "grey matter is far darker"),
        (np.clip((template_levels() - 0.5) / 0.4, 0, 1), "much of the brain is black"),
    ):
        look = look_at(image, brain_of_levels(), LEVELS_MM)
        assert look is not None
        assert reason in objection(look, whole=True)
    look = look_at(1 + NOISE, brain_of_levels(), LEVELS_MM)
    assert look is not None
    assert objection(look, whole=True)


def case(image: np.ndarray, heights: tuple[float, ...] = LEVELS_MM) -> dict:
    meta = {"heights": list(heights), "whole": True, "filename_or_obj": "scan.nii"}
    return {
        "image": MetaTensor(torch.from_numpy(image.astype(np.float32))[None], meta=meta),
        "analysed": torch.from_numpy(brain_of_levels()[None, ..., [LEVELS_MM.index(h) for h in heights]]),
    }


def test_the_verdict_a_warning_and_a_strict_guard() -> None:
    fine = GuardLevelsd()(case(head()))
    assert fine["guard"] == "ok"
    assert fine["contrast"] > 0.1
    assert "warnings" not in fine["image"].meta
    wrong = GuardLevelsd()(case(1 - head()))
    assert wrong["guard"] == "no T1w head"
    assert "does not look like a T1w head (white matter is not brighter" in wrong["image"].meta["warnings"]
    with pytest.raises(PhanesInputError, match=r"'scan.nii' does not look like a T1w head .* leave --strict out"):
        GuardLevelsd(strict=True)(case(1 - head()))
    high = GuardLevelsd(strict=True)(case(1 - head()[..., -1:], LEVELS_MM[-1:]))
    assert (high["guard"], high["contrast"]) == ("not judged", None)


LOAD = Compose([CaseLoadImaged("image"), EnsureChannelFirstd("image")])


@pytest.mark.real_data
@pytest.mark.slow
def test_real_heads_pass(data_root: Path) -> None:
    """TCGA_HT_7693, of the faintest contrast, and TCGA_DU_7014, turned by 39 degrees, are warned of."""
    research, *others = real_heads(data_root).values()
    paths = [*research[:2], *(path for group in others for path in group)]
    assert len(paths) == 16
    said = {path.name: verdict(LOAD({"image": str(path)})) for path in paths}
    warned = {"TCGA_HT_7693_t1w.nii.gz", "TCGA_DU_7014_t1w.nii.gz"}
    assert {name for name, (what, _) in said.items() if what != "passed"} <= warned
    assert not any(what == "refused" for what, _ in said.values())


@pytest.mark.real_data
@pytest.mark.slow
def test_what_was_made_of_a_real_head_does_not(data_root: Path) -> None:
    said = {
        kind: verdict({"image": image})
        for kind, image in wrong_images(sorted((data_root / "ixi_heads" / "val").glob("*.nii.gz"))[0])
    }
    assert set(said) == set(WRONG)
    assert {kind: why for kind, (what, why) in said.items() if what == "passed"} == {}
