"""A head is brought to the template's grid, and what is found there lies where it belongs in the head, to the voxel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from scripts.common.errors import PhanesInputError
from scripts.pipeline.transforms import SelectSlicesd
from scripts.space.alignment import AlignHeadd, analysed_thickness, onto_grid
from scripts.space.template import GRID_AFFINE, GRID_SHAPE, read_template
from scripts.study.registration_trials import block_means, moved, movement
from tests.conftest import run_inference, save_nifti
from tests.dicom.synthetic import save, slices
from tests.pipeline.test_inference import result, summary

ORDERS = ("RAS", "LPS", "PIR", "ASL", "IRA", "SPR")


def small_template(mm: float) -> tuple[np.ndarray, np.ndarray]:
    template, affine = read_template()
    return block_means(template.astype(np.float32), affine, mm)


def oblique(spacing: tuple[float, float, float], angles: tuple[float, float, float]) -> np.ndarray:
    """A grid whose voxel (20, 24, 18) lies at the world's origin."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ [20, 24, 18]
    return affine


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (3.0, 3.5, 6.0), (7.0, 3.0, 3.0)])
def test_every_voxel_within_half_a_slice_gets_its_value_and_no_other(spacing: tuple) -> None:
    """Against a loop over all voxels that applies the definition to each."""
    rng = np.random.default_rng(0)
    values = rng.random((1, 30, 28, 26)).astype(np.float32)
    slices = [11, 12, 13, 14]
    unit = np.diag([5.0, 5.0, 5.0, 1.0])
    unit[:3, 3] = [-70, -65, -62]
    into_grid = np.linalg.inv(unit) @ oblique(spacing, (8.0, -14.0, 5.0))
    found = onto_grid(values, slices, into_grid, (40, 48, 36), nearest=True)[0]
    half = max(4.0, np.abs(into_grid[2, :3]).max()) / 2
    expected = np.zeros_like(found)
    voxels = list(np.ndindex(found.shape))
    for voxel, (row, column, level) in zip(voxels, apply_affine(into_grid, voxels).tolist(), strict=True):
        nearest = min(slices, key=lambda k: abs(level - k))
        if abs(level - 12.5) < half and -0.5 <= row < 29.5 and -0.5 <= column < 27.5:
            expected[voxel] = values[0, round(row), round(column), nearest]
    assert (found != expected).mean() < 1e-4  # ties between two pixels
    assert (expected > 0).mean() > 0.05


@pytest.mark.parametrize(("spacing", "thickness"), [((2.0, 2.0, 2.0), 10.0), ((1.0, 1.0, 6.0), None)])
def test_a_slab_keeps_its_thickness(spacing: tuple, thickness: float | None) -> None:
    """Ten tilted slices of 1 mm are 10 mm thick; in thick voxels the slab is not torn."""
    affine = oblique(spacing, (12.0, 7.0, 0.0))
    shape = (60, 60, 40) if thickness else (100, 100, 12)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = np.eye(4)
    grid[:3, 3] = [-30, -30, -30]
    into_grid = np.linalg.inv(grid) @ affine
    found = onto_grid(np.ones((1, 61, 61, 61), np.float32), list(range(25, 35)), into_grid, shape)[0] > 0
    if thickness is not None:
        voxel = abs(np.linalg.det(affine[:3, :3]))
        assert found.sum() * voxel == pytest.approx(61 * 61 * thickness, rel=0.03)
    else:
        points = apply_affine(into_grid, np.argwhere(np.ones(shape)))[:, :2].reshape(*shape, 2)
        inside = ((points > 5) & (points < 55)).all(axis=-1).all(axis=-1)  # whole columns of voxels
        assert inside.any()
        assert (found.any(axis=-1))[inside].all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (11.0, -9.0, 14.0)])
def test_world_centroids_agree_within_half_a_voxel(order: str, angles: tuple) -> None:
    """A lesion of the template's slab, put onto a moved head's grid in any orientation, lies where the map sends it."""
    matrix, *_ = movement(5)  # template -> head, mm
    native = oblique((3.0, 3.0, 3.0), angles)
    codes = nib.orientations.axcodes2ornt(order)
    transform = nib.orientations.ornt_transform(nib.orientations.io_orientation(native), codes)
    shape = tuple(int(n) for n in np.array((64, 72, 60))[np.argsort(transform[:, 0])])
    native = native @ nib.orientations.inv_ornt_aff(transform, (64, 72, 60))
    native[:3, 3] += apply_affine(matrix, (-20.0, 10.0, 23.0)) - apply_affine(native, (np.array(shape) - 1) / 2)
    values = np.zeros((1, *GRID_SHAPE), np.float32)
    slices = list(range(85, 106))
    values[0, 70:90, 66:92, 85:106] = 1.0
    middle = apply_affine(GRID_AFFINE, [79.5, 78.5, 95.0])
    into_grid = np.linalg.inv(native) @ matrix @ GRID_AFFINE
    found = onto_grid(values, slices, np.linalg.inv(into_grid), shape)[0]
    weight = np.argwhere(found > 0.5)
    centroid = apply_affine(native, weight.mean(axis=0))
    assert np.linalg.norm(centroid - apply_affine(matrix, middle)) < 1.5  # half a voxel


def aligned(volume: np.ndarray, affine: np.ndarray, sform_code: int = 1, **options: object) -> MetaTensor:
    image = MetaTensor(torch.from_numpy(np.ascontiguousarray(volume))[None], affine=torch.from_numpy(affine))
    image.meta["sform_code"] = sform_code
    steps = Compose([Orientationd("image", axcodes="PRS", labels=None), AlignHeadd("image", **options)])
    return steps({"image": image})["image"]


def test_template_is_taken_as_it_lies() -> None:
    volume, affine = small_template(3.0)
    image = aligned(volume, affine, sform_code=4)
    assert image.meta["alignment"] == "header"
    assert image.meta["brain_known"]
    assert "warnings" not in image.meta
    np.testing.assert_array_equal(image[0].numpy(), volume.transpose(1, 0, 2)[::-1])


@pytest.mark.parametrize("align", ["geometric", "none"])
def test_without_registration_nothing_is_moved(align: str) -> None:
    volume, affine = small_template(4.0)
    elsewhere = affine.copy()
    elsewhere[:3, 3] += 17.0
    image = aligned(volume, elsewhere, align=align)
    assert image.meta["alignment"] == align
    np.testing.assert_array_equal(image[0].numpy(), volume.transpose(1, 0, 2)[::-1])
    assert aligned(volume, affine, sform_code=4, align=align).meta["alignment"] == "header"


def test_what_cannot_be_registered_is_said_and_analysed_by_its_geometry() -> None:
    rng = np.random.default_rng(0)
    noise = aligned(rng.random((40, 44, 40)).astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    assert noise.meta["alignment"] == "geometric"
    assert "not registered to MNI152 (" in noise.meta["warnings"]
    thin = aligned(rng.random((60, 60, 5)).astype(np.float32), np.diag([4.0, 4.0, 5.0, 1.0]))
    assert thin.meta["alignment"] == "geometric"
    assert "covers only 25 mm" in thin.meta["warnings"]


def test_unknown_alignment_is_refused() -> None:
    with pytest.raises(PhanesInputError, match="align is 'affine': give mni, geometric or none"):
        AlignHeadd("image", align="affine")


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head made of the template: moved, with a bright lesion at the trained level; its grid; template -> head."""
    volume, affine = small_template(3.0)
    matrix, *_ = movement(3)
    found, grid = moved(volume, affine, matrix, margin_mm=30.0)
    return np.round(found / found.max() * 3000).astype(np.float32), grid, matrix  # whole numbers, as DICOM stores


@pytest.fixture(scope="module")
def in_two_orders(head: tuple, scratch_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run over the head as RAS, as PIL, and as a sagittal DICOM series."""
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    image = nib.Nifti1Image(head[0], head[1])
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("PIL")
        )
    )
    for name, stored in (("ras", image), ("pil", turned)):
        save_nifti(source / f"{name}.nii.gz", np.ascontiguousarray(stored.dataobj), stored.affine)
    sagittal = head[0][:, ::-1, ::-1].transpose(0, 2, 1)  # slices to the left, rows downwards, columns backwards
    first = apply_affine(head[1], [0, head[0].shape[1] - 1, head[0].shape[2] - 1]) * [-1, -1, 1]
    spacing = tuple(float(size) for size in nib.affines.voxel_sizes(head[1])[[0, 2, 1]])
    series = slices(sagittal, "sagittal", spacing, tuple(first), RescaleIntercept=0, RescaleSlope=1)
    save(series, source / "dicom")
    run_inference(scratch_bundle, source, out, slab_mm=6)
    return out


def test_a_registered_head_gives_its_map_in_any_storage_order(in_two_orders: Path) -> None:
    """One more than the storage order: NIfTI keeps positions in single precision."""
    ras, pil = result(in_two_orders, "ras", "anomaly"), result(in_two_orders, "pil", "anomaly")
    same = pil.transpose(2, 0, 1)[::-1, ::-1, ::-1]
    assert ras.max() > 0
    assert np.abs(same - ras).max() < 0.01 * ras.max()


def test_a_head_converted_to_dicom_and_back_gives_its_map(in_two_orders: Path) -> None:
    """The results of the series are NIfTI files; turned to the original's axes they are its map."""
    stored = nib.load(in_two_orders / "dicom" / "dicom_anomaly.nii.gz")
    original = nib.load(in_two_orders / "ras" / "ras_anomaly.nii.gz")
    back = stored.as_reoriented(nib.orientations.io_orientation(np.linalg.inv(original.affine) @ stored.affine))
    np.testing.assert_allclose(back.affine, original.affine, atol=1e-3)
    assert np.abs(back.get_fdata() - original.get_fdata()).max() < 0.01 * original.get_fdata().max()


def test_summary_says_how_a_head_was_aligned(in_two_orders: Path, head: tuple) -> None:
    row = summary(in_two_orders)["ras"]
    assert row["alignment"] == "mni"
    assert float(row["similarity"]) > 0.8
    assert row["warnings"] == ""
    touched = result(in_two_orders, "ras", "coarse") != head[0]
    assert set(np.flatnonzero(touched.any(axis=(0, 1)))) <= {int(n) for n in row["slices"].split()}


def test_the_analysed_slab_is_the_trained_level(in_two_orders: Path, head: tuple) -> None:
    """Where the coarse image replaces the input is template z = 20 to 26 mm, by the movement that is known."""
    _, grid, matrix = head
    touched = np.argwhere(result(in_two_orders, "ras", "coarse") != head[0])
    z = apply_affine(np.linalg.inv(matrix) @ grid, touched)[:, 2]
    assert z.min() > 23 - 3 - 0.5 - 3.5  # half a slab, half a slice, a voxel and the registration's error
    assert z.max() < 23 + 3 + 0.5 + 3.5
    assert z.mean() == pytest.approx(23.0, abs=1.5)


def test_listed_slices_are_the_templates_that_pass_through_them() -> None:
    image = MetaTensor(torch.zeros(1, *GRID_SHAPE), affine=torch.from_numpy(GRID_AFFINE))
    image.meta |= {"alignment": "mni", "native_depth": 60, "slice_of_level": [2.0, 0.4]}
    selected = SelectSlicesd("image", slices=[40, 20])({"image": image})["image"]
    assert selected.meta["slice_indices"] == [45, 95]
    with pytest.raises(PhanesInputError, match="axial slices 0 to 59"):
        SelectSlicesd("image", slices=[60])({"image": image})
    with pytest.raises(PhanesInputError, match="outside of the template"):
        SelectSlicesd("image", slices=[1])({"image": image})


def test_thickness_is_at_least_a_voxels() -> None:
    affine = torch.from_numpy(GRID_AFFINE)
    image = MetaTensor(torch.zeros(1, 4, 4, 3), affine=affine, meta={"slice_indices": [1, 2, 3]})
    assert analysed_thickness(image) == 3.0
    image.meta |= {"slice_mm": 0.9, "voxel_slices": 2.5}
    assert analysed_thickness(image) == pytest.approx(2.7)
    image.meta["slice_indices"] = [1, 3]
    assert analysed_thickness(image) == pytest.approx(2 * 2.5 * 0.9)
