"""The atlas of structures: at known places, mirror-symmetric, with shares that add up; made by its command."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from scripts.common.errors import PhanesInputError
from scripts.space.levels import GRID, brain_of_levels, level_affine
from scripts.space.structures import FILE, Share, joined, numbers_of_atlas, read_structures, shares, write_structures
from scripts.space.template import read_template
from tests.conftest import DATA

# Centres of structures in MNI152 space, mm, from the literature (Talairach and AAL tables agree within 3 mm).
PLACES = {
    (-12, -18, 8): "left thalamus",
    (12, -18, 8): "right thalamus",
    (-26, 2, 0): "left putamen",
    (13, 10, 12): "right caudate nucleus",
    (-26, -20, -14): "left hippocampus",
    (24, -3, -19): "right amygdala",
    (0, -30, -34): "brainstem",
    (-28, -20, 36): "left cerebral white matter",
    (30, -60, -34): "right cerebellar cortex",
}


@pytest.mark.parametrize(("place", "name"), PLACES.items())
def test_known_places(place: tuple[float, float, float], name: str) -> None:
    label = np.zeros((5, 5, 5), dtype=int)
    label[1:4, 1:4, 1:4] = 1
    into_mni = np.eye(4)
    into_mni[:3, 3] = np.array(place) - 2
    assert shares(label, 1, into_mni)[0][0].name == name


def test_left_and_right_are_mirror_images_and_the_brain_is_covered() -> None:
    atlas, brain = read_structures(), brain_of_levels()
    mirrored, sides = atlas[:, ::-1], np.arange(256)
    for left, right in [(2, 41), (3, 42), (4, 43), (10, 49), (17, 53)]:
        sides[left], sides[right] = right, left
        np.testing.assert_array_equal(mirrored == left, atlas == right)
    assert (atlas[brain] > 0).mean() > 0.97
    assert (atlas[~brain] > 0).mean() < 0.03
    template, affine = read_template()
    levels = apply_affine(np.linalg.inv(affine) @ level_affine(), np.argwhere(np.isin(atlas, (2, 41, 4, 43))))
    bright = template[tuple(np.round(levels).astype(int).T)]
    white = np.isin(atlas[np.isin(atlas, (2, 41, 4, 43))], (2, 41))
    assert np.median(bright[white]) > 1.3 * np.median(bright[~white])  # where the template has white matter and fluid


def test_shares_count_voxels_and_join_sides_that_are_not_known() -> None:
    labels = np.zeros((*GRID,), dtype=int)
    columns = np.argwhere(read_structures() == 10)[:30]
    others = np.argwhere(read_structures() == 49)[:10]
    outside = np.zeros((10, 3), dtype=int)
    outside[:, 0] = np.arange(10)
    for voxels in (columns, others, outside):
        labels[tuple(voxels.T)] = 1
    assert shares(labels, 2, level_affine()) == [(Share("thalamus", "left", 0.6), Share("thalamus", "right", 0.2)), ()]
    joint = shares(labels, 1, level_affine(), sides_known=False)[0]
    assert [str(one) for one in joint] == ["thalamus 80 %"]
    beyond = np.eye(4)
    beyond[2, 3] = 500
    assert shares(np.ones((2, 2, 2), dtype=int), 1, beyond) == [()]


def test_most_heads_decide() -> None:
    votes = np.zeros((len(numbers_of_atlas()), *GRID), dtype=np.float32)
    thalamus = numbers_of_atlas().index((10,))
    votes[thalamus, 60, 50, 40] = 1.0  # in all heads on the left; on the right in none
    votes[thalamus, 70, 50, 40] = 0.4
    atlas = joined(votes)
    assert not atlas[60, 50, 40]  # half of the heads and their mirror images is not most
    votes[numbers_of_atlas().index((49,)), 60, 77, 40] = 0.2
    atlas = joined(votes)
    assert (atlas[60, 50, 40], atlas[60, 77, 40], atlas[70, 50, 40]) == (10, 49, 0)


def test_a_folder_without_label_maps_and_a_head_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="holds no NIfTI file"):
        write_structures(str(tmp_path))
    noise = np.random.default_rng(0).choice([2, 3], (40, 40, 40)).astype(np.uint8)
    nib.save(nib.Nifti1Image(noise, np.diag([2.0, 2, 2, 1])), tmp_path / "noise.nii.gz")
    with pytest.raises(PhanesInputError, match=r"noise.nii.gz' cannot be registered .* leave it out"):
        write_structures(str(tmp_path), str(tmp_path / "out" / "atlas.nii.gz"))


@pytest.mark.real_data
def test_the_command_makes_an_atlas_like_the_one_that_is_shipped(tmp_path: Path) -> None:
    """From two of the twenty heads: enough to see that the command works."""
    some = tmp_path / "some"
    some.mkdir()
    for file in sorted((DATA / "structure_labels").glob("*.nii.gz"))[7:9]:
        (some / file.name).symlink_to(file)
    out = write_structures(str(some), str(tmp_path / "atlas.nii.gz"))
    two = np.asarray(nib.load(out).dataobj)
    assert (two == read_structures())[read_structures() > 0].mean() > 0.6
    assert FILE.stat().st_size < 300_000
