"""All prepared heads at a glance, with the template's brain outlined: a wrong registration shows at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from ..common.files import write_atomically
from ..space.geometry import LEVEL_MM
from ..space.levels import GRID, PIXEL_MM, STEP_MM, brain_of_levels, nearest_level
from .prepared import heights_of, read_prepared

COLUMNS, ROWS = 4, 50  # heads on one sheet
GAP, TEXT = 4, 14  # pixels
WHITE = 1.8  # shown as white, in units of the brain's median
OUTLINE = (230, 60, 60)


def write_contact_sheets(folder: Path, heads: Sequence[tuple[Path, str]]) -> list[str]:
    """Write `contact_sheet.png`; more heads than one sheet holds go on in `contact_sheet_2.png` and so on.

    Args:
        folder: where the sheets are written.
        heads: prepared files in order, each with the text below it.

    Returns:
        The names of the sheets.
    """
    names = []
    for number, first in enumerate(range(0, len(heads), COLUMNS * ROWS), start=1):
        names.append("contact_sheet.png" if number == 1 else f"contact_sheet_{number}.png")
        sheet = _sheet(heads[first : first + COLUMNS * ROWS])
        write_atomically(folder / names[-1], partial(sheet.save, format="PNG"))
    return names


def _sheet(heads: Sequence[tuple[Path, str]]) -> Image.Image:
    tiles = [(_tile(path), text) for path, text in heads]
    height, width = (max(tile.shape[axis] for tile, _ in tiles) for axis in (0, 1))
    columns, rows = min(COLUMNS, len(tiles)), -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (columns * (width + GAP), rows * (height + TEXT + GAP)))
    draw = ImageDraw.Draw(sheet)
    for index, (tile, text) in enumerate(tiles):
        left, top = index % COLUMNS * (width + GAP), index // COLUMNS * (height + TEXT + GAP)
        sheet.paste(Image.fromarray(tile), (left, top))
        draw.text((left + 2, top + height), text, fill=(200, 200, 200))
    return sheet


def _tile(path: Path) -> NDArray[np.uint8]:
    """Axial, sagittal and coronal section of a head side by side, or the slice alone: (rows, columns, 3)."""
    heights = heights_of(path)
    middle = GRID[0] // 2, GRID[1] // 2
    sections = []
    for volume in (read_prepared(path, heights), brain_of_levels(heights).astype(np.float32)):
        if len(heights) == 1:
            sections.append([volume[..., 0]])
            continue
        upright = ndimage.zoom(volume[:, middle[1]].T[::-1], (STEP_MM / PIXEL_MM, 1.0), order=1)
        across = ndimage.zoom(volume[middle[0]].T[::-1], (STEP_MM / PIXEL_MM, 1.0), order=1)
        axial = volume[..., nearest_level(LEVEL_MM)]
        sections.append([axial, *(_as_high(view, GRID[0]) for view in (upright, across))])
    grey = np.clip(np.concatenate(sections[0], axis=1) / WHITE, 0.0, 1.0)
    inside = np.concatenate(sections[1], axis=1) > 0.5
    picture = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    picture[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
    return picture


def _as_high(view: NDArray, height: int) -> NDArray:
    """The view, padded or cut to a height on both sides alike."""
    missing = height - view.shape[0]
    if missing < 0:
        return view[-missing // 2 : -missing // 2 + height]
    return np.pad(view, ((missing // 2, missing - missing // 2), (0, 0)))
