"""Where an image lies in MNI space: by its header, by registration, a slice by its grid or its brain's outline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd
from nibabel.affines import apply_affine

from scripts.common.errors import PhanesInputError
from scripts.space.alignment import AlignHeadd
from scripts.space.resampling import into_mni_of
from scripts.study.registration_trials import moved, movement
from tests.conftest import head_slice
from tests.heads import small_template


def aligned(volume: np.ndarray, affine: np.ndarray, sform_code: int = 1, **meta: object) -> MetaTensor:
    image = MetaTensor(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None], affine=affine)
    image.meta.update({"sform_code": sform_code, "qform_code": 0, "filename_or_obj": "scan.nii", **meta})
    oriented = Orientationd("image", axcodes="PRS", labels=None)({"image": image})
    return AlignHeadd("image")(oriented)["image"]


def test_template_is_taken_as_it_lies() -> None:
    volume, affine = small_template(3.0)
    image = aligned(volume, affine, sform_code=4)
    assert image.meta["alignment"] == "header"
    assert "warnings" not in image.meta
    np.testing.assert_array_equal(image[0].numpy(), volume.transpose(1, 0, 2)[::-1])
    np.testing.assert_allclose(into_mni_of(image, image.affine), image.affine, atol=0.005)


def test_a_moved_head_is_found_and_its_voxels_stay() -> None:
    volume, affine = small_template(3.0)
    matrix, *_ = movement(3)
    found, grid = moved(volume, affine, matrix, margin_mm=30.0)
    image = aligned(found, grid)
    assert image.meta["alignment"] == "mni"
    assert image.meta["alignment_similarity"] > 0.8
    np.testing.assert_array_equal(image[0].numpy(), found.transpose(1, 0, 2)[::-1])
    for point in ((-40.0, 20.0, 23.0), (30.0, -60.0, -20.0)):
        back = apply_affine(image.meta["placing"], apply_affine(matrix, point))
        assert np.linalg.norm(back - point) < 2.0


def test_what_cannot_be_registered_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(PhanesInputError, match=r"'scan.nii' cannot be registered to MNI152 \(similarity"):
        aligned(rng.random((40, 44, 40)), np.diag([4.0, 4.0, 4.0, 1.0]))
    with pytest.raises(PhanesInputError, match=r"it covers only 25 mm of the head\); give a T1w scan of a whole head"):
        aligned(rng.random((60, 60, 5)), np.diag([4.0, 4.0, 5.0, 1.0]))


def test_a_header_that_says_mni_is_kept_when_nothing_better_is_found() -> None:
    noise = np.random.default_rng(0).random((40, 44, 40))
    image = aligned(noise, np.diag([4.0, 4.0, 4.0, 1.0]), sform_code=4)
    assert image.meta["alignment"] == "header"
    assert "the header says MNI space, but the similarity is only" in image.meta["warnings"]


@pytest.mark.parametrize("height", [23.0, -5.0])
def test_a_slice_in_mni_space_lies_where_its_header_says(height: float) -> None:
    affine = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, height], [0, 0, 0, 1]])
    image = aligned(head_slice()[::-1].T[..., None], affine)
    assert image.meta["alignment"] == "slice"
    np.testing.assert_allclose(into_mni_of(image, affine), affine, atol=1e-6)


def test_a_slice_of_the_templates_size_without_a_place_lies_at_the_papers_level() -> None:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    image = aligned(head_slice()[::-1].T[..., None], affine)
    np.testing.assert_allclose(apply_affine(into_mni_of(image, affine), [98, 116, 0]), [0, -18, 23], atol=1e-6)


def test_a_slice_from_elsewhere_lies_where_its_outline_puts_it() -> None:
    slice_ = np.pad(head_slice(), ((30, 90), (70, 5)))
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = aligned(slice_[::-1].T[..., None], affine)
    assert image.meta["alignment"] == "outline"
    middle = np.asarray(image.meta["outline"]).mean(axis=0)
    assert np.abs(middle - [0.0, -17.0]).max() < 5
    blank = aligned(np.zeros((200, 250, 1)), affine)
    assert blank.meta["alignment"] == "slice"
    assert "no outline of a brain was found" in blank.meta["warnings"]
