"""Real T1w heads pass the guard, at hospital contrast too; other images do not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from scipy.ndimage import affine_transform

from scripts.common.errors import PhanesInputError
from scripts.pipeline.guard import GuardLevelsd, look_at, objection, template_levels
from scripts.pipeline.inference import sentence_of
from scripts.pipeline.readers import CaseLoadImaged
from scripts.pipeline.transforms import LevelsOfHeadd, NormalizeHeadd
from scripts.space.alignment import AlignHeadd
from scripts.space.levels import LEVELS_MM, brain_of_levels
from scripts.space.template import BRAIN_CUT, read_template

# Brightness of air, fluid, grey and white matter, and fat, of other kinds of images, where a T1w image has the first.
T1W = [0.0, 0.3, 0.62, 0.92, 1.3]
CURVES = {
    "T2w": [1.1, 1.0, 0.55, 0.36, 0.4],
    "FLAIR": [0.05, 0.12, 0.75, 0.6, 0.7],
    "proton density": [0.95, 0.95, 0.9, 0.72, 0.8],
    "T1 times": [4.2, 3.6, 1.35, 0.85, 0.5],
    "CT": [1.008, 1.01, 1.038, 1.03, 1.032],
}
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


def verdict(path: Path) -> str:
    """What is said of a file: why it is refused, why it is warned of, or nothing."""
    steps = [
        CaseLoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="PRS", labels=None),
        AlignHeadd("image"),
        LevelsOfHeadd("image"),
        NormalizeHeadd("image"),
    ]
    try:
        data = GuardLevelsd()(Compose(steps)({"image": str(path)}))
    except RuntimeError as error:
        return sentence_of(error)
    warnings = str(data["image"].meta.get("warnings", ""))
    return warnings if "T1w head" in warnings or "similarity to the template" in warnings else ""


def chosen(root: Path) -> list[Path]:
    """Heads for choosing: two of the research scanner, and hospitals' without the one that cannot be registered."""
    with (root / "tumour_heads" / "split.csv").open() as lines:
        val = [row["patient"] for row in csv.DictReader(lines) if row["split"] == "val"]
    return [
        *sorted((root / "ixi_heads" / "val").glob("*.nii.gz"))[:2],
        *(root / "tumour_heads" / f"{name}_t1w.nii.gz" for name in val if name not in ("TCGA_DU_7014", "TCGA_HT_7693")),
        *sorted((root / "lesions").glob("*t1w_*.nii.gz")),
        root / "volumes" / "head_t1w_healthy.nii.gz",
    ]


@pytest.mark.real_data
@pytest.mark.slow
def test_real_heads_pass(data_root: Path) -> None:
    """TCGA_HT_7693, of the faintest contrast, is warned of, and TCGA_DU_7014 refused."""
    paths = chosen(data_root)
    assert len(paths) == 14
    assert {path.name: said for path in paths if (said := verdict(path))} == {}


def other(values: np.ndarray, brain: np.ndarray, kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "upside down":
        return values[..., ::-1, ::-1]
    if kind == "noise":
        return rng.integers(0, 1000, values.shape)
    return np.where(brain, np.interp(values, T1W, CURVES[kind]), 0.6 * values) + rng.normal(0, 0.01, values.shape)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CURVES, "upside down", "noise"])
def test_what_was_made_of_a_real_head_does_not(data_root: Path, tmp_path: Path, kind: str) -> None:
    image = nib.as_closest_canonical(nib.load(data_root / "volumes" / "head_t1w_healthy.nii.gz"))
    values = np.asarray(image.dataobj, dtype=np.float32)[::2, ::2, ::2]
    grid = image.affine @ np.diag([2, 2, 2, 1])
    save: Callable[[np.ndarray], None] = lambda v: nib.save(  # noqa: E731
        nib.Nifti1Image(v.astype(np.float32), grid), tmp_path / "x.nii"
    )
    save(values)
    data = {"image": str(tmp_path / "x.nii")}
    placed = Compose([CaseLoadImaged("image"), EnsureChannelFirstd("image"), AlignHeadd("image")])(data)["image"]
    template, own = read_template()
    into = np.linalg.inv(own) @ np.asarray(placed.meta["placing"]) @ grid
    brain = affine_transform(template.astype(np.float32), into, output_shape=values.shape, order=1)
    save(1000 * other(0.92 * values / np.median(values[brain > 210]), brain > BRAIN_CUT, kind))
    assert verdict(tmp_path / "x.nii")
