"""Synthetic lesions: where they lie, how large they are, what they look like, and that they can be drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from scripts.common.errors import PhanesInputError
from scripts.study.evaluation.shapes import irregular_shape, lesion_region, place, read_shapes
from scripts.study.evaluation.synthetic import STROKE_AREAS, EllipseLesions, StrokeLesions
from tests.conftest import head_slice

SUBJECTS = [f"subject{i}" for i in range(6)]


@pytest.fixture(scope="module")
def heads() -> torch.Tensor:
    """Six phantom slices, (6, 1, 128, 128) in [0, 1]."""
    slices = [np.pad(head_slice(seed), ((0, 0), (18, 18)))[None] for seed in range(6)]
    images = torch.from_numpy(np.stack(slices)).float() / 255
    return torch.nn.functional.interpolate(images, size=(128, 128), mode="bilinear")


@pytest.fixture(scope="module")
def masks_dir(tmp_path_factory: pytest.TempPathFactory):
    """Two stroke masks on the slices' grid, an ellipse each."""
    folder = tmp_path_factory.mktemp("masks")
    y, x = np.mgrid[:233, :197]
    for name, radius in (("a", 12), ("b", 35)):
        mask = ((y - 110) / radius) ** 2 + ((x - 60) / (0.5 * radius)) ** 2 < 1
        Image.fromarray(255 * mask.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def lesions(kind: str, masks_dir):
    return EllipseLesions() if kind == "ellipses" else StrokeLesions(kind, masks_dir)


KINDS = ["ellipses", *STROKE_AREAS]


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_depend_on_seed_and_subject_alone(kind, heads, masks_dir):
    paint = lesions(kind, masks_dir)
    images, masks = paint(heads, SUBJECTS, seed=1)
    alone_image, alone_mask = paint(heads[4:5], SUBJECTS[4:5], seed=1)
    assert torch.equal(alone_image[0], images[4])
    assert torch.equal(alone_mask[0], masks[4])
    assert not torch.equal(paint(heads, SUBJECTS, seed=2)[1], masks)
    assert not torch.equal(paint(heads[4:5], ["another"], seed=1)[1], alone_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_images_stay_in_range_and_the_input_is_left_alone(kind, heads, masks_dir):
    before = heads.clone()
    images, masks = lesions(kind, masks_dir)(heads, SUBJECTS, seed=0)
    assert torch.equal(heads, before)
    assert images.min() >= 0
    assert images.max() <= 1
    assert masks.dtype == torch.bool
    assert masks.flatten(1).any(dim=1).all()


def test_ellipses_change_pixels_inside_their_mask_only(heads):
    images, masks = EllipseLesions()(heads, SUBJECTS, seed=0)
    assert torch.equal(images[~masks], heads[~masks])


def test_ellipses_cover_as_much_as_the_published_ones():
    blank = torch.zeros(300, 1, 128, 128)
    _, masks = EllipseLesions()(blank, [str(i) for i in range(300)], seed=0)
    coverage = masks.flatten(1).float().mean(dim=1)
    assert 0.0185 < coverage.mean() < 0.0230  # published rule, simulated: 2.06 %
    assert 0.004 < coverage.quantile(0.05) < 0.010  # 0.7 %
    assert 0.035 < coverage.quantile(0.95) < 0.050  # 4.3 %


def test_ellipses_have_one_grey_level_for_each_band_of_intensity():
    ramp = torch.linspace(0, 1, 128 * 128).reshape(1, 1, 128, 128)
    for low, high in ((1, 5), (30, 70), (95, 99)):
        images, masks = EllipseLesions(bands=[(low, high)])(ramp, ["s"], seed=0)
        grey = images[masks].unique()
        assert len(grey) == 1
        assert low / 100 <= grey.item() <= high / 100


@pytest.mark.parametrize("size", STROKE_AREAS)
@pytest.mark.parametrize("made_up", [True, False])
def test_strokes_have_the_stated_size_and_lie_inside_the_brain_in_one_hemisphere(size, made_up, heads, masks_dir):
    region = torch.from_numpy(lesion_region())
    _, masks = StrokeLesions(size, None if made_up else masks_dir)(heads, SUBJECTS, seed=0)
    low, high = STROKE_AREAS[size]
    for mask in masks[:, 0]:
        assert low <= mask.sum() <= high
        assert not (mask & ~region).any()
        columns = torch.argwhere(mask)[:, 1]
        assert columns.max() < 64 or columns.min() >= 64


def test_strokes_are_darker_than_the_tissue_they_replace_and_textured(heads, masks_dir):
    images, masks = StrokeLesions("large", masks_dir)(heads, SUBJECTS, seed=0)
    assert (images <= heads).all()
    for image, head, mask in zip(images[:, 0], heads[:, 0], masks[:, 0], strict=True):
        core = torch.from_numpy(ndimage.binary_erosion(mask.numpy(), iterations=3))
        assert 0.35 < (image[core] / head[core]).mean() < 0.85
        assert image[core].std() > 0.01


def test_a_strokes_edge_is_soft_and_ends_within_four_pixels(heads, masks_dir):
    images, masks = StrokeLesions("medium", masks_dir)(heads, SUBJECTS, seed=0)
    changed = (heads - images)[:, 0] > 1e-4
    for mask, change in zip(masks[:, 0].numpy(), changed.numpy(), strict=True):
        distance = ndimage.distance_transform_edt(~mask)
        assert change[(distance > 0) & (distance <= 1)].any()
        assert not change[distance > 4].any()


def test_fluid_is_left_out_of_strokes(heads, masks_dir):
    flooded = heads.clone()
    flooded[:, :, 40:90, 20:64] = 0.1  # the left hemisphere is one large ventricle
    _, masks = StrokeLesions("medium", masks_dir)(flooded, SUBJECTS, seed=0)
    assert not masks[:, :, 44:86, 24:60].any()


def test_a_brain_too_small_for_the_lesion_is_refused(heads):
    tiny = np.zeros((128, 128), dtype=bool)
    tiny[60:70, 60:70] = True
    with pytest.raises(ValueError, match="no large lesion"):
        StrokeLesions("large", brain=tiny)(heads[:1], SUBJECTS[:1], seed=0)


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="small, medium, large"):
        StrokeLesions("huge")


def test_subjects_and_images_must_match(heads):
    with pytest.raises(ValueError, match="B subjects"):
        EllipseLesions()(heads, SUBJECTS[:2], seed=0)


def test_shapes_are_scaled_turned_and_centred_as_told():
    square = np.zeros((128, 128), dtype=np.float32)
    square[54:74, 59:69] = 1.0  # 20 high, 10 wide
    placed = place(square, area=800, flip=False, angle=90.0, centre=(40.0, 80.0), size=128)
    rows, columns = np.argwhere(placed).T
    assert placed.sum() == pytest.approx(800, rel=0.1)
    assert np.ptp(columns) == pytest.approx(2 * np.ptp(rows), abs=3)
    assert (rows.mean(), columns.mean()) == pytest.approx((40.0, 80.0), abs=0.6)


def test_flipped_shapes_are_mirrored():
    wedge = np.zeros((128, 128), dtype=np.float32)
    wedge[50:80, 50:60] = 1.0
    wedge[50:55, 60:80] = 1.0
    straight = place(wedge, wedge.sum(), False, 0.0, (64.0, 64.0), 128)
    mirrored = place(wedge, wedge.sum(), True, 0.0, (64.0, 64.0), 128)
    overlap = (np.roll(straight[:, ::-1], 1, axis=1) & mirrored).sum() / mirrored.sum()
    assert overlap > 0.9
    assert (straight & mirrored).sum() < 0.8 * mirrored.sum()


def test_masks_are_read_onto_the_slices_grid(masks_dir):
    small, large = read_shapes(masks_dir)
    pixel = (233 / 128) ** 2
    assert (small > 0.5).sum() * pixel == pytest.approx(np.pi * 12 * 6, rel=0.1)
    assert (large > 0.5).sum() * pixel == pytest.approx(np.pi * 35 * 17.5, rel=0.1)
    assert ndimage.center_of_mass(large > 0.5) == pytest.approx((110 / 233 * 128, (60 + 18) / 233 * 128), abs=0.6)


def test_a_folder_without_masks_is_refused(tmp_path):
    with pytest.raises(PhanesInputError, match="No lesion mask"):
        read_shapes(tmp_path)


def test_made_up_shapes_are_connected_and_irregular():
    solidity = []
    for seed in range(10):
        shape = irregular_shape(np.random.default_rng(seed)) > 0.5
        assert ndimage.label(shape)[1] == 1
        perimeter = (shape & ~ndimage.binary_erosion(shape)).sum()
        solidity.append(4 * np.pi * shape.sum() / perimeter**2)
    assert np.std(solidity) > 0.02


@pytest.mark.real_data
def test_real_stroke_masks_in_real_slices(data_root):
    shapes = read_shapes(data_root / "stroke_masks")
    assert len(shapes) == 60
    areas = [(shape > 0.5).sum() for shape in shapes]
    assert min(areas) < 72
    assert max(areas) > 1000
