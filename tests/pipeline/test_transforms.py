"""Preprocessing: the same network input from every way a slice can be stored, and an exact way back."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.pipeline.transforms import FieldOfViewd, NormalizeSlicesd, SelectSlicesd, slice_scale
from tests.conftest import BUNDLE, ras_of_slice, save_nifti

MNI = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def preprocessing(**overrides: object) -> Compose:
    """The list of the bundle's inference.json, without registration (tests/space/test_alignment.py has that)."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "align": "geometric", **overrides})
    return parser.get_parsed_content("preprocessing")


def prepared(path: Path, **overrides: object) -> MetaTensor:
    return preprocessing(**overrides)({"image": str(path)})["image"]


def there_and_back(pre: Compose, path: Path) -> tuple[MetaTensor, MetaTensor, MetaTensor]:
    """The network's input, the same brought back, and the image as read."""
    data = pre({"image": str(path)})
    data["pred"] = MetaTensor(data["image"].as_tensor().clone())
    back = Invertd("pred", transform=pre, orig_keys="image", nearest_interp=False)(data)["pred"]
    return data["image"], back, data["source"]


def volume_with(phantom: np.ndarray, index: int = 95) -> np.ndarray:
    volume = np.zeros((197, 233, 189), dtype=np.uint8)
    volume[:, :, index : index + 1] = ras_of_slice(phantom)
    return volume


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
        "volume.nii.gz": (volume_with(phantom), MNI),
    }  # fmt: skip
    for name, (array, affine) in stored.items():
        image = prepared(save_nifti(tmp_path / name, np.ascontiguousarray(array), affine))
        assert image.shape == (1, 128, 128, 1)
        assert float((image.as_tensor() - reference.as_tensor()).abs().max()) < 1e-6, name


def test_png_input_is_the_published_preprocessing(png: Path, phantom: np.ndarray) -> None:
    """Divide by p98, clip, pad to the square of the longer side, bilinear 128 x 128 without anti-aliasing."""
    image = np.clip(phantom / np.percentile(phantom, 98), 0, 1)
    square = np.pad(image, ((0, 0), (18, 18)), constant_values=image.min())
    tensor = torch.from_numpy(square)[None, None]
    expected = torch.nn.functional.interpolate(tensor, (128, 128), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(prepared(png)[..., 0], expected[0], atol=1e-6)


def test_all_48_storage_orders_agree_and_return(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.integers(1, 255, (40, 44, 36)).astype(np.uint8)
    affine = np.array([[4.0, 0, 0, -80], [0, 4.5, 0, -100], [0, 0, 5, -60], [0, 0, 0, 1]])
    image = nib.Nifti1Image(volume, affine)
    reference, pre = None, preprocessing(slices=[10, 20])
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = image.as_reoriented(np.array(list(zip(order, flips, strict=True)), dtype=float))
        path = tmp_path / "x.nii"
        nib.save(turned, path)
        network_input, back, source = there_and_back(pre, path)
        reference = network_input.as_tensor() if reference is None else reference
        assert torch.equal(network_input.as_tensor(), reference)
        assert back.shape == source.shape == (1, *turned.shape)
        np.testing.assert_allclose(back.affine, turned.affine, atol=1e-9)


def test_way_back_puts_every_voxel_where_it_was(tmp_path: Path) -> None:
    """A slice as smooth as the network's grid comes back as itself; other slices are zero."""
    x, y, z = np.mgrid[:128, :128, :7].astype(float)
    volume = (100 + 60 * np.sin(x / 20) + 30 * np.cos(y / 17) + z).astype(np.float32)
    path = save_nifti(tmp_path / "x.nii", volume, np.diag([-2.0, 2.0, 3.0, 1.0]))
    network_input, back, source = there_and_back(preprocessing(slices=[2, 4]), path)
    scale = network_input.meta["intensity_scale"]
    assert set(np.flatnonzero(back[0].numpy().any(axis=(0, 1)))) == {2, 4}
    for k, s in zip((2, 4), scale, strict=True):
        inside = back[0, ..., k] > 0  # the field of view is smaller than this image
        difference = (back[0, ..., k] * s - source[0, ..., k].clamp(max=s))[inside]
        assert float(inside.float().mean()) > 0.7
        assert float(difference.abs().mean()) < 0.5


@pytest.mark.parametrize(("slices", "slab_mm", "expected"), [
    ("mid", 0, [95]), ("mid", 10, list(range(90, 101))), ("mid", 1.9, [95]), ([3, 1], 0, [1, 3]), (7, 0, [7]),
    ("all", 0, list(range(189))),
])  # fmt: skip
def test_slice_selection_in_mni_space(phantom: np.ndarray, slices: object, slab_mm: float, expected: list) -> None:
    volume = torch.zeros(1, 233, 197, 189)
    affine = torch.tensor([[0, 1.0, 0, -98], [-1, 0, 0, 98], [0, 0, 1, -72], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(volume, affine=affine)
    selected = SelectSlicesd("image", slices=slices, slab_mm=slab_mm)({"image": image})["image"]
    assert selected.meta["slice_indices"] == expected
    assert selected.affine[2, 3] == -72 + expected[0]
    far = max(abs(index - 95) for index in expected) > 10
    assert ("from the trained level: the networks never saw such" in str(selected.meta.get("warnings"))) == far


@pytest.mark.parametrize("slices", [[36], [-1], []])
def test_slices_that_do_not_exist_are_refused(slices: list) -> None:
    image = MetaTensor(torch.zeros(1, 40, 40, 36))
    with pytest.raises(PhanesInputError, match="axial slices 0 to 35"):
        SelectSlicesd("image", slices=slices)({"image": image})


def test_wrong_options_are_refused() -> None:
    with pytest.raises(PhanesInputError, match="slices is 'middle': give mid, all"):
        SelectSlicesd("image", slices="middle")
    with pytest.raises(PhanesInputError, match="slab_mm is -1"):
        SelectSlicesd("image", slab_mm=-1)


def test_an_image_that_is_no_axial_slice_is_refused() -> None:
    with pytest.raises(PhanesInputError, match="axial sections of"):
        SelectSlicesd("image")({"image": MetaTensor(torch.zeros(1, 40, 1, 40))})


def test_field_of_view_pads_each_slice_with_its_minimum() -> None:
    image = MetaTensor(torch.rand(1, 40, 30, 3) + torch.tensor([1.0, 2.0, 3.0]), affine=torch.eye(4))
    padded = FieldOfViewd("image", size_mm=60)({"image": image})["image"]
    assert padded.shape == (1, 60, 60, 3)
    assert torch.equal(padded.amin((0, 1, 2)), image.amin((0, 1, 2)))
    assert torch.equal(padded[0, 0, 0].as_tensor(), image.amin((0, 1, 2)).as_tensor())


def test_field_of_view_holds_233_mm_whatever_the_pixels(phantom: np.ndarray) -> None:
    image = MetaTensor(torch.zeros(1, 512, 300, 1), affine=torch.diag(torch.tensor([0.5, 1.0, 3.0, 1.0])))
    assert FieldOfViewd("image")({"image": image})["image"].shape == (1, 466, 233, 1)


def test_native_head_is_centred(tmp_path: Path, phantom: np.ndarray) -> None:
    """A head off-centre in a larger scan, taken as it lies, gives the input of the same head on the template's grid."""
    wide = np.pad(phantom, ((30, 60), (10, 90)))
    path = save_nifti(tmp_path / "wide.nii", ras_of_slice(wide), np.diag([1.0, 1, 1, 1]))
    shifted = prepared(path, align="none")
    Image.fromarray(phantom).save(tmp_path / "x.png")
    reference = prepared(tmp_path / "x.png")
    rolled = (np.roll(shifted.numpy(), move, (1, 2)) for move in product((-1, 0, 1), repeat=2))
    assert min(float(np.abs(image - reference.numpy()).mean()) for image in rolled) < 0.03


def test_normalisation_does_not_depend_on_how_much_air_a_scan_holds(tmp_path: Path, phantom: np.ndarray) -> None:
    wide = np.pad(phantom, ((0, 0), (150, 150)))
    image = prepared(save_nifti(tmp_path / "wide.nii", ras_of_slice(wide), np.eye(4)))
    assert image.meta["intensity_scale"] == pytest.approx([float(np.percentile(phantom, 98))], rel=0.01)


def test_each_slice_is_normalised_by_its_own_percentile() -> None:
    rng = np.random.default_rng(0)
    array = rng.gamma(2.0, 50.0, (233, 233, 3)).astype(np.float32) * [1, 2, 5]
    image = NormalizeSlicesd("image")({"image": MetaTensor(torch.from_numpy(array.astype(np.float32))[None])})["image"]
    expected = [np.percentile(array[:, 18:215, k], 98) for k in range(3)]
    np.testing.assert_allclose(image.meta["intensity_scale"], expected, rtol=1e-5)
    np.testing.assert_allclose(image[0], np.clip(array / np.array(expected), 0, 1), atol=1e-5)


def test_mostly_dark_slices_are_scaled_by_their_maximum() -> None:
    image = torch.zeros(1, 50, 50, 2)
    image[0, 25, 25] = 4.0
    assert slice_scale(image).tolist() == [4.0, 4.0]


def test_blank_slices_are_passed_over_unless_all_are() -> None:
    image = torch.rand(1, 50, 50, 2)
    image[..., 1] = 0
    done = NormalizeSlicesd("image")({"image": MetaTensor(image)})["image"]
    assert float(done[..., 1].max()) == 0
    with pytest.raises(PhanesInputError, match="is blank"):
        NormalizeSlicesd("image")({"image": MetaTensor(torch.zeros(1, 50, 50, 2))})


@pytest.mark.real_data
def test_real_slices_are_the_same_as_png_and_nifti(data_root: Path, tmp_path: Path) -> None:
    path = sorted((data_root / "ixi_midaxial/test").glob("*.png"))[0]
    pixels = np.asarray(Image.open(path))
    nifti = save_nifti(tmp_path / "x.nii.gz", volume_with(pixels), MNI)
    assert float((prepared(path).as_tensor() - prepared(nifti).as_tensor()).abs().max()) < 1e-6


@pytest.mark.real_data
def test_real_heads_give_a_head_in_the_middle(data_root: Path) -> None:
    for path in (data_root / "volumes/head_t1w_healthy.nii.gz", *sorted(data_root.glob("lesions/*_head.nii.gz"))[:2]):
        image = prepared(path)[0, ..., 0].numpy()
        rows, columns = np.nonzero(image > 0.2)
        assert abs(rows.mean() - 63.5) < 8, path
        assert abs(columns.mean() - 63.5) < 6, path
        assert 0.25 < (image > 0.2).mean() < 0.6, path
