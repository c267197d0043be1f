"""The registration finds a moved head again, and says so when it has not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_template
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from scripts.space.registration import Bounds, describe, register, similarity_as_it_lies
from scripts.space.template import GRID_AFFINE, GRID_SHAPE, brain_on_grid, read_template
from scripts.study.registration_trials import (
    PROTOCOLS,
    Protocol,
    block_means,
    errors,
    movement,
    registration_trials,
    run_trials,
    scanned,
    with_neck,
)


def test_template_is_nilearns() -> None:
    template, affine = read_template()
    expected = load_mni152_template(resolution=1)
    np.testing.assert_allclose(template / 255, expected.get_fdata(), atol=0.003)
    np.testing.assert_array_equal(affine, expected.affine)


def test_brain_on_the_oriented_grid_is_the_templates() -> None:
    template, affine = read_template()
    oriented = nib.as_closest_canonical(nib.Nifti1Image(template, affine)).get_fdata().transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(brain_on_grid(GRID_AFFINE, GRID_SHAPE), oriented > 10)


def test_scales_and_rotation_are_those_a_matrix_was_made_of() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("x", 12, degrees=True).as_matrix() @ np.diag([0.9, 1.2, 1.0])
    found = describe(matrix, 0.7)
    np.testing.assert_allclose(found.scales, (0.9, 1.0, 1.2))
    assert found.rotation == pytest.approx(12)
    assert describe(np.diag([-1.0, 1, 1, 1]), 1.0).rotation == 180  # a mirrored head is no head


@pytest.mark.parametrize(("matrix", "similarity", "reason"), [
    (np.eye(4), 0.9, ""),
    (np.eye(4), 0.2, "similarity to the template 0.20"),
    (np.eye(4), float("nan"), "similarity"),
    (np.diag([1.6, 1, 1, 1]), 0.9, "scales 1.00 to 1.60"),
    (np.diag([0.5, 1, 1, 1]), 0.9, "scales 0.50 to 1.00"),
    (np.diag([-1.0, -1, 1, 1]), 0.9, "rotation of 180 degrees"),
])  # fmt: skip
def test_bounds_object_to_what_is_no_head(matrix: np.ndarray, similarity: float, reason: str) -> None:
    objection = Bounds().objection(describe(matrix, similarity))
    assert objection.startswith(reason)
    assert bool(objection) == bool(reason)


def test_errors_of_known_differences() -> None:
    lifted = np.eye(4)
    lifted[2, 3] = 3.0
    assert errors(lifted, np.eye(4)) == pytest.approx((3.0, 3.0), abs=1e-9)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 5, degrees=True).as_matrix()
    assert errors(turned, np.eye(4)) == (pytest.approx(4.4, abs=0.5), pytest.approx(0.0, abs=1e-9))
    assert errors(turned, turned) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_movements_keep_to_their_ranges_and_to_their_seeds() -> None:
    for seed in range(20):
        matrix, angle = movement(seed, (5.0, 20.0))
        assert 5 <= angle <= 20
        assert np.linalg.norm(matrix[:3, 3]) <= 30
        found = describe(matrix, 1.0)
        assert 0.85 <= found.scales[0] <= found.scales[2] <= 1.15
        assert movement(seed, scales=(1.0, 1.0))[1] == pytest.approx(
            describe(movement(seed, scales=(1, 1))[0], 1).rotation
        )
        np.testing.assert_array_equal(matrix, movement(seed, (5.0, 20.0))[0])


def test_a_scan_is_cut_sliced_and_moved_as_its_protocol_says() -> None:
    """A ball of 40 mm about (0, 0, 0), moved by 10 mm."""
    x, y, z = np.meshgrid(*[np.arange(-60.0, 61.0, 2.0)] * 3, indexing="ij")
    ball = (x**2 + y**2 + z**2 < 40**2).astype(np.float32)
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = -60
    lifted = np.eye(4)
    lifted[0, 3] = 10
    scan, affine = scanned(ball, grid, lifted, Protocol("", axis=1, thickness=5.0, distance=6.5, cut=30.0))
    assert nib.affines.voxel_sizes(affine) == pytest.approx((2.0, 6.5, 2.0))
    inside = apply_affine(affine, np.argwhere(scan > 0.5))
    top = inside[:, 2].max()
    assert top == pytest.approx(8, abs=3)  # 30 mm of the top are cut off, and what is narrower than a crown
    assert (inside[:, 0].min() + inside[:, 0].max()) / 2 == pytest.approx(10, abs=1)
    assert scan[scan > 0.5].size * 2 * 6.5 * 2 == pytest.approx((ball * (z <= top)).sum() * 8, rel=0.05)
    longer, below = with_neck(ball, grid, 40.0)
    assert longer.shape == (61, 61, 81)
    np.testing.assert_array_equal(longer[..., 20:], ball)
    assert below[2, 3] == -100


def test_template_lies_where_it_lies_and_nowhere_else() -> None:
    template, affine = read_template()
    volume, grid = block_means(template.astype(np.float32), affine, 2.0)
    assert similarity_as_it_lies(volume, grid) > 0.95
    moved = grid.copy()
    moved[2, 3] += 20
    assert similarity_as_it_lies(volume, moved) < 0.5
    assert similarity_as_it_lies(volume[:, :, ::-1], grid) < 0.5


@pytest.mark.parametrize("protocol", [
    Protocol("as it was", scales=(0.85, 1.15)),
    Protocol("gaps", axis=2, thickness=5.0, distance=6.5, turn=(30.0, 30.0)),
    Protocol("thick", axis=0, thickness=8.0, distance=8.0, cut=20.0),
    Protocol("turned", axis=2, thickness=3.0, distance=3.0, turn=(40.0, 40.0)),
], ids=lambda protocol: protocol.name)  # fmt: skip
def test_a_moved_head_is_found_again(protocol: Protocol, tmp_path: Path) -> None:
    """The template itself; heads are in the table that `registration_trials` prints."""
    template, affine = read_template()
    nib.save(nib.Nifti1Image(template, affine), tmp_path / "head.nii.gz")
    (trial,) = run_trials(tmp_path / "head.nii.gz", 14, [protocol], np.eye(4))
    assert trial.brain_error < 1.0, trial
    assert trial.recovered
    assert trial.similarity > 0.8


def test_shading_fat_and_a_lesion_do_not_move_the_template() -> None:
    """A head made of the template: scalp three times as bright, shaded by a coil, with a dark lesion of 5 cm."""
    template, affine = read_template()
    volume, grid = block_means(template.astype(np.float32), affine, 3.0)
    x, y, z = apply_affine(grid, np.indices(volume.shape).reshape(3, -1).T).T.reshape(3, *volume.shape)
    depth = ndimage.distance_transform_edt(volume <= 10, sampling=3)
    volume[(depth > 7) & (depth < 14)] = 500
    volume[(x + 30) ** 2 + y**2 + (z - 25) ** 2 < 25**2] *= 0.4
    volume *= np.exp(y / 200)
    found = register(volume, grid)
    assert errors(found.matrix, np.eye(4))[0] < 2.0
    assert not Bounds().objection(found)


def test_the_same_bits_whatever_the_number_of_threads() -> None:
    template, affine = read_template()
    volume, grid = block_means(template.astype(np.float32), affine, 4.0)
    with threadpool_limits(limits=1):
        one = register(volume, grid)
    with threadpool_limits(limits=2):
        two = register(volume, grid)
    np.testing.assert_array_equal(one.matrix, two.matrix)
    assert one.similarity == two.similarity


def test_what_is_no_head_is_refused() -> None:
    noise = np.random.default_rng(0).random((60, 70, 50))
    assert Bounds().objection(register(noise, np.diag([3.0, 3.0, 3.0, 1.0])))
    assert Bounds().objection(register(np.zeros((60, 70, 50)), np.diag([3.0, 3.0, 3.0, 1.0])))


@pytest.mark.real_data
@pytest.mark.slow
def test_trials_print_a_table_and_write_every_trial(data_root: Path, tmp_path: Path, capsys) -> None:
    head = sorted((data_root / "ixi_heads" / "val").glob("*.nii.gz"))[0]
    registration_trials(str(head), seed=3, out=str(tmp_path / "trials.csv"))
    assert capsys.readouterr().out.count("1 of 1") == len(PROTOCOLS)
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + len(PROTOCOLS)


@pytest.mark.real_data
def test_a_pitched_head_of_faint_contrast_is_found(data_root: Path) -> None:
    """Its scalp is several times as bright as its brain, and misleads the first search."""
    image = nib.load(data_root / "tumour_heads" / "TCGA_DU_7014_t1w.nii.gz")
    found = register(np.asarray(image.dataobj, dtype=np.float32), image.affine)
    assert not Bounds().objection(found)
    assert found.rotation == pytest.approx(38.7, abs=3)
    np.testing.assert_allclose(found.scales, (0.79, 0.88, 0.92), atol=0.05)


@pytest.mark.real_data
def test_levels_are_those_of_another_registration(data_root: Path) -> None:
    """The mid-axial slices are of the same subjects, put into MNI space by others: the level is theirs within 4 mm."""
    for name in ("IXI014", "IXI276"):
        image = nib.load(data_root / "ixi_heads" / "val" / f"{name}.nii.gz")
        volume = np.asarray(image.dataobj, dtype=np.float32)
        found = register(volume, image.affine)
        expected = np.asarray(Image.open(data_root / "ixi_midaxial" / "val" / f"{name}.png"), dtype=np.float32)
        likeness = []
        for mm in range(-8, 9):
            level = GRID_AFFINE.copy()
            level[2, 3] = 23.0 + mm
            into = np.linalg.inv(image.affine) @ found.matrix @ level
            section = ndimage.affine_transform(volume, into, output_shape=(*GRID_SHAPE[:2], 1), order=1)[..., 0]
            brain = brain_on_grid(level, (*GRID_SHAPE[:2], 1))[..., 0]
            likeness.append(np.corrcoef(section[brain], expected[brain])[0, 1])
        assert abs(int(np.argmax(likeness)) - 8) <= 4
