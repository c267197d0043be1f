"""Preprocessing: the same network input from every way an image can be stored, one brightness for slices and heads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from scripts.common.errors import PhanesInputError
from scripts.pipeline.postprocessing import RestoreUnitsd
from scripts.pipeline.transforms import LevelsOfHeadd, NormalizeHeadd, WithHeightsd, slice_scale
from scripts.space.levels import LEVEL_BRIGHTNESS, LEVELS_MM, USUAL_CONTRAST, brain_of_levels
from tests.conftest import BUNDLE, ras_of_slice, save_nifti
from tests.heads import small_template

MNI = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])


def preprocessing(**overrides: object) -> Compose:
    """The list of the bundle's inference.json."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), **overrides})
    return parser.get_parsed_content("preprocessing")


def prepared(path: Path, **overrides: object) -> MetaTensor:
    return preprocessing(**overrides)({"image": str(path)})["image"]


def template_head(mm: float = 3.0, **meta: object) -> MetaTensor:
    """The template as `AlignHeadd` would leave it, (1, H, W, D)."""
    volume, affine = small_template(mm)
    oriented = np.ascontiguousarray(volume.transpose(1, 0, 2)[::-1])
    turned = affine[:, [1, 0, 2, 3]].copy()
    turned[:3, 3] += turned[:3, 0] * (oriented.shape[0] - 1)
    turned[:3, 0] *= -1
    image = MetaTensor(torch.from_numpy(oriented)[None], affine=turned)
    image.meta.update({"alignment": "header", "placing": np.eye(4), "filename_or_obj": "scan.nii", **meta})
    return image


def levels_of(image: MetaTensor, slices: object) -> MetaTensor:
    return LevelsOfHeadd("image", slices=slices)({"image": image})["image"]


def test_one_slice_is_the_same_however_it_is_stored(tmp_path: Path, png: Path, phantom: np.ndarray) -> None:
    reference = prepared(png)
    ras = ras_of_slice(phantom)
    level = MNI.copy()
    level[2, 3] = 23
    turned = np.array([[-1.0, 0, 0, 196], [0, -1, 0, 232], [0, 0, 1, 0], [0, 0, 0, 1]])
    stored = {
        "ras.nii.gz": (ras, level),
        "no position.nii.gz": (ras, np.eye(4)),
        "2-D.nii.gz": (ras[..., 0], level),
        "lps.nii.gz": (ras[::-1, ::-1], level @ turned),
    }
    for name, (array, affine) in stored.items():
        image = prepared(save_nifti(tmp_path / name, np.ascontiguousarray(array), affine))
        assert image.shape == (2, 128, 128, 1)
        assert float((image.as_tensor() - reference.as_tensor()).abs().max()) < 1e-5, name
    assert (reference[1] == 23).all()


def test_a_slice_is_resampled_as_published(phantom: np.ndarray, png: Path) -> None:
    """Padded to the square of the longer side, bilinear 128 x 128 without anti-aliasing."""
    square = np.pad(phantom.astype(np.float32), ((0, 0), (18, 18)), constant_values=phantom.min())
    tensor = torch.from_numpy(square)[None, None]
    expected = torch.nn.functional.interpolate(tensor, (128, 128), mode="bilinear", align_corners=False)
    steps = preprocessing().transforms
    names = [type(step).__name__ for step in steps]
    levels = Compose(steps[: names.index("LevelsOfHeadd") + 1])({"image": str(png)})["image"]
    np.testing.assert_allclose(levels[..., 0], expected[0], atol=0.01)


def test_the_whole_brain_the_papers_level_or_slices_of_the_scan() -> None:
    head = template_head()
    brain = levels_of(head, "brain")
    assert brain.meta["heights"] == list(LEVELS_MM)
    assert brain.meta["whole"]
    middle = levels_of(head, "mid")
    assert middle.meta["heights"] == [23.0]
    assert torch.equal(middle.as_tensor()[..., 0], brain.as_tensor()[..., LEVELS_MM.index(23.0)])
    assert not middle.meta["whole"]
    assert middle.meta["brain_median"] == brain.meta["brain_median"]
    listed = levels_of(head, [31, 20])
    assert listed.meta["heights"] == pytest.approx([-71.0 + 60, -71.0 + 93])  # of 3 mm, the first centre at -71
    assert listed.meta["thickness"] == pytest.approx(3.0)
    one = levels_of(head, 31)
    assert one.meta["heights"] == listed.meta["heights"][1:]


def test_what_was_not_scanned_is_not_analysed() -> None:
    head = template_head()
    part = MetaTensor(head[..., 20:45], meta=dict(head.meta))
    part.affine[2, 3] += 60
    data = LevelsOfHeadd("image")({"image": part})
    assert data["image"].meta["heights"][0] >= -13
    assert data["image"].meta["heights"][-1] <= 65
    assert "the scan holds the brain from z = " in data["image"].meta["warnings"]
    expected = brain_of_levels()[..., LEVELS_MM.index(1.0)]
    assert (data["analysed"][0, ..., data["image"].meta["heights"].index(1.0)].numpy() == expected).all()
    with pytest.raises(PhanesInputError, match=r"'scan.nii' holds no level of the brain"):
        levels_of(
            template_head(placing=np.array([[1.0, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])), "brain"
        )


@pytest.mark.parametrize(("slices", "sentence"), [
    ([63], "axial slices 0 to 62"), ([-1], "axial slices 0 to 62"), ([], "axial slices 0 to 62"),
    ([62], "lie outside of the brain"),
])  # fmt: skip
def test_slices_that_do_not_exist_are_refused(slices: list, sentence: str) -> None:
    with pytest.raises(PhanesInputError, match=sentence):
        levels_of(template_head(), slices)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(PhanesInputError, match="slices is 'middle': give brain, mid, or a list"):
        LevelsOfHeadd("image", slices="middle")
    with pytest.raises(PhanesInputError, match=r"slices is \['a'\]: give brain, mid, or a list"):
        LevelsOfHeadd("image", slices=["a"])
    with pytest.raises(PhanesInputError, match="'all' is gone: brain analyses the whole head"):
        LevelsOfHeadd("image", slices="all")


def test_an_image_that_is_no_axial_slice_is_refused() -> None:
    with pytest.raises(PhanesInputError, match="axial sections of"):
        LevelsOfHeadd("image")({"image": MetaTensor(torch.zeros(1, 40, 1, 40))})


def test_a_head_has_one_scale_whatever_is_analysed_of_it() -> None:
    head = template_head()
    head *= 7.0
    for slices in ("brain", "mid"):
        image = NormalizeHeadd("image")({"image": levels_of(head, slices)})["image"]
        scale = set(image.meta["intensity_scale"])
        assert len(scale) == 1
        volume, _ = small_template(3.0)
        median = scale.pop() / 2 ** (1 / image.meta["intensity_power"])
        assert median == pytest.approx(7.0 * np.median(volume[volume > 10]), rel=0.05)
    image = NormalizeHeadd("image")({"image": levels_of(head, "brain")})["image"]
    assert float(image.as_tensor()[0][torch.from_numpy(brain_of_levels())].median()) == pytest.approx(0.5, abs=1e-3)
    assert float(image.max()) <= 1.0


@pytest.mark.parametrize("power", [0.7, 1.0, 1.3])
def test_heads_of_every_contrast_look_alike_and_get_their_own_units_back(power: float) -> None:
    head = template_head()
    other = MetaTensor((head.as_tensor().clamp_min(0) / 100) ** power * 300, meta=dict(head.meta))
    levels = levels_of(other, "brain")
    image = NormalizeHeadd("image")({"image": levels})["image"]
    inside = image.as_tensor()[0][torch.from_numpy(brain_of_levels())]
    low, high = (float(inside.quantile(q)) for q in (0.1, 0.9))
    assert math.log(high / low) == pytest.approx(USUAL_CONTRAST, abs=0.01)
    assert float(inside.median()) == pytest.approx(0.5, abs=1e-3)
    restored = RestoreUnitsd("drawn")({"image": image, "drawn": image.as_tensor()})["drawn"]
    seen = (image.as_tensor() > 0.01) & (image.as_tensor() < 1)
    torch.testing.assert_close(restored[seen], (levels.as_tensor() + levels.meta["air"])[seen], rtol=1e-3, atol=0.1)


def test_a_slice_is_as_bright_as_its_head_would_make_it() -> None:
    index = LEVELS_MM.index(23.0)
    brain = brain_of_levels()[..., index : index + 1]
    noise = np.abs(np.random.default_rng(0).normal(0, 5, brain.shape))
    image = MetaTensor(torch.from_numpy((20 + np.where(brain, 300.0, 0.0) + noise).astype(np.float32))[None])
    affine = np.array([[0.0, 233 / 128, 0, -115.59], [-233 / 128, 0, 0, 97.59], [0, 0, 1, 23], [0, 0, 0, 1]])
    image.affine = torch.from_numpy(affine)
    image.meta.update({"alignment": "slice", "placing": np.eye(4)})
    normalised = NormalizeHeadd("image")({"image": levels_of(image, "brain")})["image"]
    assert float(normalised.median()) < 0.1
    assert float(normalised.as_tensor()[0][torch.from_numpy(brain)].median()) == pytest.approx(
        0.5 * LEVEL_BRIGHTNESS[index], abs=1e-3
    )
    assert normalised.meta["air"] == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_a_blank_brain_is_refused(value: float) -> None:
    head = template_head()
    head = MetaTensor(torch.full_like(head, value), meta=dict(head.meta))
    with pytest.raises(PhanesInputError, match="is blank"):
        NormalizeHeadd("image")({"image": levels_of(head, "brain")})


def test_heights_are_a_channel() -> None:
    image = WithHeightsd("image")({"image": levels_of(template_head(), "brain")})["image"]
    assert image.shape == (2, 128, 128, len(LEVELS_MM))
    assert image[1, 5, 7].tolist() == list(LEVELS_MM)


def test_a_level_that_the_network_does_not_know_is_refused():
    slice_at = levels_of(template_head(), "mid")
    assert WithHeightsd("image", known=[23])({"image": slice_at})["image"].shape[0] == 2
    with pytest.raises(PhanesInputError, match=r"z = \+23 to \+23 mm, but this network knows -5 to \+19 mm alone"):
        WithHeightsd("image", known=[-5, 19])({"image": slice_at})


def test_percentile_looks_at_the_middle_columns() -> None:
    image = torch.zeros(1, 10, 233, 1)
    image[:, :, 18:215] = torch.linspace(0, 1, 197)[None, None, :, None]
    expected = np.percentile(np.linspace(0, 1, 197).repeat(10), 98)
    assert float(slice_scale(image)) == pytest.approx(expected, abs=1e-3)
