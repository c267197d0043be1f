"""Synthetic lesions painted into healthy slices: the paper's ellipses (Table 1) and stroke-like lesions.

Both are callables `(images, subjects, seed) -> (lesioned images, masks)` on (B, 1, H, W) slices in [0, 1]. The lesion
of a subject depends on the seed and the subject's name alone, never on its place in a batch or on other subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal
from skimage import draw
from torch import Tensor

from .shapes import irregular_shape, lesion_region, place, read_shapes

# Lesion area in pixels of the 128 x 128 grid (3.3 mm2 each): the size bins of reference 3.2, bounded at both ends.
STROKE_AREAS = {"small": (12, 71), "medium": (72, 570), "large": (571, 1500)}


def subject_rng(seed: int, subject: str, kind: str) -> np.random.Generator:
    """A random generator of its own for each (seed, subject, kind of lesion), the same on every machine."""
    digest = hashlib.sha256(f"{kind}/{subject}/{seed}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


class EllipseLesions:
    """The paper's synthetic anomalies (Table 1; reference 3.1): filled ellipses, one for each band of intensity.

    The bands follow each other. A band's grey level is drawn uniformly between two percentiles of the image so far,
    background and earlier ellipses included. It fills an ellipse anywhere in the middle of the image. The darkest band
    is black where at least 19 % of the image is background, so a few lesions cannot be seen at all.

    Args:
        bands: pairs of percentiles.
        centre: range of centre rows and columns, as fractions of the image's size.
        radius: mean and standard deviation of the half-axes, in pixels.
        min_radius: smallest half-axis.
    """

    name = "ellipses"

    def __init__(
        self,
        bands: Sequence[Sequence[float]] = ((1, 5), (30, 70), (95, 99)),
        centre: Sequence[float] = (0.25, 0.75),
        radius: Sequence[float] = (4.0, 6.0),
        min_radius: int = 2,
    ) -> None:
        self.bands = [(float(low), float(high)) for low, high in bands]
        self.centre = (float(centre[0]), float(centre[1]))
        self.radius = (float(radius[0]), float(radius[1]))
        self.min_radius = min_radius

    def __call__(self, images: Tensor, subjects: Sequence[str], seed: int) -> tuple[Tensor, Tensor]:
        """Return images with ellipses, (B, 1, H, W) in [0, 1], and boolean masks of their union."""
        return _paint_each(self._paint, images, subjects, seed, self.name)

    def _paint(self, image: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        painted, mask = image.copy(), np.zeros(image.shape, dtype=bool)
        for low, high in self.bands:
            grey = min(1.0, abs(rng.uniform(*np.percentile(painted, [low, high]))))
            row, column = (rng.integers(int(self.centre[0] * n), int(self.centre[1] * n)) for n in image.shape)
            # half a pixel more, because OpenCV drew the published ellipses and fills the outline's pixels too
            radii = np.maximum(self.min_radius, np.abs(rng.normal(*self.radius, size=2)).astype(int)) + 0.5
            angle = np.deg2rad(rng.integers(0, 360) - 180)
            pixels = draw.ellipse(row, column, radii[0], radii[1], shape=image.shape, rotation=angle)
            painted[pixels] = grey
            mask[pixels] = True
        return painted, mask


class StrokeLesions:
    """Stroke-like lesions: irregular outlines within one hemisphere, filled with textured, hypo-intense tissue.

    Harder than ellipses and closer to what a reader of T1w images sees: soft edges, a darker core, fine anatomy faded
    but not erased, never brighter than the healthy tissue it replaces. Fluid (ventricles, wide sulci), where a dark
    lesion cannot be seen, is left out of the lesion and of its mask.

    Args:
        size: "small" (12-71 pixels of 128 x 128, 40-235 mm2), "medium" (72-570, up to 1,900 mm2) or "large"
            (571-1,500, up to 5,000 mm2); the area is drawn log-uniformly.
        shapes_dir: folder of lesion masks whose outlines are used, see `shapes.read_shapes`; without it, made-up ones.
        level: range of the lesion's intensity relative to the tissue it replaces.
        texture: relative standard deviation of the lesion's texture.
        detail: fraction of the healthy fine anatomy that shines through.
        brain: (H, W) mask of where lesions may lie; None for the MNI152 template's brain, 4 mm inside its rim.
    """

    def __init__(
        self,
        size: str = "medium",
        shapes_dir: str | Path | None = None,
        level: Sequence[float] = (0.45, 0.75),
        texture: float = 0.12,
        detail: float = 0.3,
        brain: NDArray[np.bool_] | None = None,
    ) -> None:
        if size not in STROKE_AREAS:
            raise ValueError(f"size must be one of {', '.join(STROKE_AREAS)}, got {size!r}")
        self.size = size
        self.shapes_dir = shapes_dir
        self.level = (float(level[0]), float(level[1]))
        self.texture = texture
        self.detail = detail
        self.brain = lesion_region() if brain is None else np.asarray(brain, dtype=bool)

    @property
    def name(self) -> str:
        """Name of the lesion set, in tables and in the random generator."""
        return f"stroke_{self.size}"

    @cached_property
    def shapes(self) -> list[NDArray[np.float32]]:
        """Outlines read from `shapes_dir`; empty when shapes are generated."""
        return read_shapes(self.shapes_dir) if self.shapes_dir else []

    def __call__(self, images: Tensor, subjects: Sequence[str], seed: int) -> tuple[Tensor, Tensor]:
        """Return images with one lesion each, (B, 1, H, W) in [0, 1], and their boolean masks."""
        return _paint_each(self._paint, images, subjects, seed, self.name)

    def _paint(self, image: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        smooth = ndimage.gaussian_filter(image, 1.0)
        tissue = self.brain & (smooth > 0.6 * np.median(image[self.brain]))
        mask = self._outline(tissue, rng)
        return self._fill(image, mask, rng), mask

    def _outline(self, tissue: NDArray, rng: np.random.Generator, attempts: int = 50) -> NDArray[np.bool_]:
        """Draw a lesion mask that lies in the tissue of one hemisphere and has an area of the wanted size."""
        low, high = STROKE_AREAS[self.size]
        area = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        for _ in range(attempts):
            shape = self._draw_shape(area, rng)
            flip, angle = bool(rng.integers(2)), rng.uniform(-20.0, 20.0)
            middle = (tissue.shape[0] / 2, tissue.shape[1] / 2)
            centred = place(shape, area, flip, angle, middle, tissue.shape[0])
            side = self._hemisphere(tissue, bool(rng.integers(2)))
            # overlap of the centred shape with the tissue, for every shift at once
            overlap = signal.fftconvolve(side.astype(np.float64), centred[::-1, ::-1].astype(np.float64), mode="same")
            fits = np.argwhere(overlap >= min(0.9 * centred.sum(), overlap.max() - 0.5))
            spot = fits[rng.integers(len(fits))]
            mask = place(shape, area, flip, angle, (float(spot[0]), float(spot[1])), tissue.shape[0]) & side
            if low <= mask.sum() <= high:
                return mask
        raise ValueError(f"no {self.size} lesion ({low} to {high} pixels) fits into {tissue.sum()} pixels of tissue")

    def _draw_shape(self, area: float, rng: np.random.Generator) -> NDArray[np.float32]:
        """Choose one outline; of the real ones, if possible, one that needs scaling by a factor of two at most."""
        if not self.shapes:
            return irregular_shape(rng)
        near = [shape for shape in self.shapes if 0.25 <= (shape > 0.5).sum() / area <= 4.0] or self.shapes
        return near[rng.integers(len(near))]

    def _hemisphere(self, tissue: NDArray, right: bool) -> NDArray[np.bool_]:
        """Tissue on one side of the brain's midline: strokes do not cross it."""
        midline = round(float(np.argwhere(self.brain)[:, 1].mean()))
        side = tissue.copy()
        side[:, slice(0, midline) if right else slice(midline, None)] = False
        return side

    def _fill(self, image: NDArray, mask: NDArray, rng: np.random.Generator) -> NDArray:
        """Blend dark, textured tissue into the mask: darker towards the core, with a soft edge half a pixel wide."""
        weight = ndimage.gaussian_filter(self.brain.astype(np.float64), 2.5) + 1e-6
        local = ndimage.gaussian_filter(image * self.brain, 2.5) / weight  # mean of the brain around, without skull
        depth = ndimage.distance_transform_edt(mask)
        core = rng.uniform(*self.level)
        rim = core + 0.4 * (1.0 - core)
        dark = rim + (core - rim) * np.clip(depth / 4.0, 0.0, 1.0)
        noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.8, 1.6))
        tissue = local * dark * (1.0 + self.texture * noise / noise.std()) + self.detail * (image - local)
        alpha = ndimage.gaussian_filter(mask.astype(np.float64), rng.uniform(0.5, 0.9))
        blended = image + alpha * (np.clip(tissue, 0.0, 1.0) - image)
        return np.minimum(image, blended)


def _paint_each(
    paint: Callable[[NDArray, np.random.Generator], tuple[NDArray, NDArray]],
    images: Tensor,
    subjects: Sequence[str],
    seed: int,
    kind: str,
) -> tuple[Tensor, Tensor]:
    if images.ndim != 4 or images.shape[1] != 1 or len(subjects) != len(images):
        raise ValueError(f"expected (B, 1, H, W) images and B subjects, got {tuple(images.shape)} and {len(subjects)}")
    painted, masks = torch.empty_like(images), torch.zeros(images.shape, dtype=torch.bool, device=images.device)
    for index, subject in enumerate(subjects):
        source = images[index, 0].detach().cpu().numpy().astype(np.float64)
        image, mask = paint(source, subject_rng(seed, subject, kind))
        painted[index, 0] = torch.from_numpy(image).to(images)
        masks[index, 0] = torch.from_numpy(mask).to(images.device)
    return painted, masks
