"""A slice from an unknown place: found by its brain's outline, analysed within it, brought back onto its own pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import label
from skimage.morphology import convex_hull_image

from scripts.pipeline.postprocessing import NativeImagesd, SplitMapsd
from scripts.space.outline import CENTRE_XY, HEIGHT_MM, assumed_pixel_mm, brain_outline, into_slice, within_outline
from scripts.space.resampling import brain_at
from scripts.study.evaluation.lesions import LesionBenchmark
from tests.conftest import head_slice
from tests.pipeline.test_transforms import preprocessing

BRAIN_AXES = (0.84 * 98.0, 0.84 * 80.0)  # of the phantom, pixels of 1 mm
BRAIN_CENTRE = (233 / 2 - 2, 197 / 2)


def placed(image: np.ndarray, scale: float, shape: tuple[int, int], corner: tuple[float, float]) -> np.ndarray:
    """The image with `scale` pixels a pixel, its own pixel (0, 0) at `corner`, in a frame of zeros."""
    return ndimage.affine_transform(
        image.astype(np.float32),
        [1 / scale, 1 / scale],
        offset=[-c / scale for c in corner],
        output_shape=shape,
        order=1,
    )


def save(path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (2.0, 1.0)])
@pytest.mark.parametrize("fat", [210, 1200])
def test_the_outline_is_the_brains_whatever_the_pixels_and_however_bright_the_scalp(spacing: tuple, fat: int) -> None:
    head = head_slice().astype(np.float32)
    head[head > 195] += fat - 210
    image = ndimage.zoom(head, [1 / s for s in spacing], order=1, grid_mode=True, mode="nearest")
    outline = brain_outline(image, spacing)
    assert outline is not None
    radii = np.linalg.norm(((outline + 0.5) * spacing - 0.5 - BRAIN_CENTRE) / BRAIN_AXES, axis=1)
    assert radii.max() < 1.03
    hull = ConvexHull(outline * spacing)
    assert 0.88 < hull.volume / (np.pi * np.prod(BRAIN_AXES)) < 1.0


def test_a_stripped_brain_has_the_outline_it_has_within_its_skull() -> None:
    head = head_slice().astype(np.float32)
    y, x = np.indices(head.shape)
    inside = np.hypot((y - BRAIN_CENTRE[0]) / BRAIN_AXES[0], (x - BRAIN_CENTRE[1]) / BRAIN_AXES[1]) < 0.98
    areas = [ConvexHull(brain_outline(image, (1.0, 1.0))).volume for image in (head, np.where(inside, head, 0.0))]
    assert areas[1] == pytest.approx(0.98**2 * areas[0], rel=0.02)


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.eye(200), np.pad(np.ones((3, 120)), 40)])
def test_without_a_brain_there_is_no_outline(image: np.ndarray) -> None:
    assert brain_outline(image.astype(np.float32), (1.0, 1.0)) is None


@pytest.mark.parametrize(("scale", "corner"), [(1.0, (0, 0)), (0.8, (30, 41)), (1.7, (55, 12))])
def test_size_and_place_come_from_the_outline(scale: float, corner: tuple) -> None:
    image = placed(head_slice(), scale, (512, 512), corner)
    pixel = assumed_pixel_mm(image)
    assert pixel == pytest.approx(np.sqrt(20000 / (np.pi * 98 * 80)) / scale, rel=0.03)
    into = into_slice(brain_outline(image, (pixel, pixel)))
    assert into[1, 0] == pytest.approx(scale * (2 * BRAIN_AXES[0] - 4) / HEIGHT_MM, rel=0.03)
    middle = into @ [0.0, -17.0, 1.0]
    assert middle[:2] == pytest.approx(np.array(BRAIN_CENTRE) * scale + corner, abs=2.5)


@pytest.mark.real_data
def test_the_usual_height_and_centre_are_those_of_the_validation_slices(data_root) -> None:
    files = sorted((data_root / "ixi_midaxial" / "val").glob("*.png"))
    outlines = [brain_outline(np.asarray(Image.open(path), dtype=np.float32), (1.0, 1.0)) for path in files]
    assert len(outlines) == 60
    low, high = (np.array([edge(outline, axis=0) for outline in outlines]) for edge in (np.min, np.max))
    heights, middles = (high - low)[:, 0] + 1, (low + high) / 2
    assert np.median(heights) == HEIGHT_MM
    assert np.percentile(heights, [5, 95]) == pytest.approx([158, 177], abs=1)
    row, column = np.median(middles, axis=0)
    assert (column - 98, 98 - row) == CENTRE_XY


def test_inside_means_inside_the_polygon() -> None:
    """Against skimage's hull of the pixels."""
    rng = np.random.default_rng(3)
    points = rng.uniform(5, 35, (12, 2)).round()
    corners = points[ConvexHull(points).vertices]
    affine = np.diag([1.0, 1.0, 7.0, 1.0])
    found = within_outline(corners.tolist(), affine, (40, 40, 2))
    pixels = np.zeros((40, 40), dtype=bool)
    pixels[tuple(points.astype(int).T)] = True
    expected = convex_hull_image(pixels, offset_coordinates=False)
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 0] != expected).sum() <= len(corners) + 12  # pixels whose centre lies on the line


def test_what_is_found_lies_where_it_was_in_the_image(tmp_path) -> None:
    head = head_slice().astype(np.float32)
    head[90:102, 60:72] = 20
    save(tmp_path / "scan.png", placed(head, 1.5, (420, 400), (25, 60)))
    transform = preprocessing()
    data = transform({"image": str(tmp_path / "scan.png")})
    image: MetaTensor = data["image"]
    assert image.meta["alignment"] == "outline"
    assert tuple(image.shape) == (2, 128, 128, 1)
    region = data["analysed"].as_tensor()[0]
    np.testing.assert_array_equal(region.numpy(), brain_at(image.meta["heights"]))  # it was fitted to the template
    dark = ndimage.binary_opening(((image[0] < 0.35) & region).numpy()[..., 0], np.ones((3, 3)))
    data["pred"] = torch.zeros(4, 128, 128, 1)
    data["pred"][0, ..., 0] = torch.from_numpy(dark).float() + 1.0  # all of the frame, the rim too
    back = NativeImagesd()(SplitMapsd()(data))
    anomaly = back["anomaly"][0, ..., 0].numpy()
    assert anomaly.shape == data["source"].shape[1:3]
    assert not anomaly[back["analysed"][0, ..., 0].numpy() == 0].any()
    spots = label(anomaly > 1.5)
    centres = [np.argwhere(spots == k).mean(axis=0)[::-1] for k in range(1, spots.max() + 1)]  # (x, y): PNGs are LPS
    wanted = np.array([95.5 * 1.5 + 25, 65.5 * 1.5 + 60])
    assert min(float(np.abs(centre - wanted).max()) for centre in centres) < 2.0


def test_slices_of_a_templates_grid_stay_as_they_are(tmp_path) -> None:
    save(tmp_path / "a.png", head_slice())
    data = preprocessing()({"image": str(tmp_path / "a.png")})
    assert data["image"].meta["alignment"] == "slice"
    assert "outline" not in data["image"].meta


def test_lesions_are_scored_within_the_outline_and_missed_outside(tmp_path) -> None:
    save(tmp_path / "a.png", placed(head_slice(), 1.0, (256, 256), (12, 30)))
    mask = np.zeros((256, 256))
    mask[100:112, 120:132] = 255
    mask[30:36, 120:132] = 255  # in the scalp
    save(tmp_path / "a_mask.png", mask)
    benchmark = LesionBenchmark(tmp_path, preprocessing().transforms)
    lesions = benchmark.load(*benchmark.tasks()[0])
    assert lesions.region is not None
    inside = lesions.masks & lesions.region
    assert 0 < int(inside.sum()) < int(lesions.masks.sum())
