"""Limits of what an image may claim, checked before anything is decompressed or allocated: sizes, spacing, position.

Otherwise a broken or hostile header could ask for more memory than the machine has. All sentences leave out the path.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel import Nifti1Header
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import PhanesInputError

MAX_VOXELS = 2**27  # 512 x 512 x 512; a head at 0.5 mm has about 10^8
MAX_SIDE = 4096  # pixels: a longer one is no head
VOXEL_MM = (0.05, 50.0)
MAX_EXTENT_MM = 2500.0  # the longest scanned body
MAX_SHEAR = 0.1  # cosine of the angle between two axes; 0 is a right angle
DEFLATE_RATIO = 1032  # zlib cannot do better (zlib.net/zlib_tech.html)
SURPLUS = 2**24  # bytes behind the image that are read and ignored


def check_shape(shape: Sequence[int]) -> None:
    """Refuse a shape that no head has.

    Raises:
        PhanesInputError: a side or the number of voxels is too large.
    """
    text = " x ".join(str(int(n)) for n in shape)
    if max(shape, default=0) > MAX_SIDE:
        raise PhanesInputError(f"claims {text} voxels; a side of a head has at most {MAX_SIDE}: check the file")
    if math.prod(int(n) for n in shape) > MAX_VOXELS:
        raise PhanesInputError(f"claims {text} voxels, more than {MAX_VOXELS}; check the file, or downsample it")


def check_size(path: str | Path, claimed_bytes: int) -> None:
    """Refuse a file that cannot hold the data it claims, plain or (`.gz`) compressed.

    Raises:
        PhanesInputError: it is too short.
    """
    path = Path(path)
    size = path.stat().st_size
    if claimed_bytes > size * (DEFLATE_RATIO if path.name.lower().endswith((".gz", ".mgz")) or is_packed(path) else 1):
        raise PhanesInputError(
            f"has {size} bytes, too few for the image that its header describes: it is cut off; copy it again"
        )


def read_gzip(path: str | Path, claimed_bytes: int) -> bytes:
    """The content of a compressed file, whose checksum stands at its end.

    Raises:
        PhanesInputError: it holds more than `SURPLUS` bytes beyond what its header claims.
        OSError, EOFError, zlib.error: it is damaged.
    """
    with gzip.open(path) as file:
        content = file.read(claimed_bytes + SURPLUS)
        if file.read(1):
            raise PhanesInputError("holds far more data than its header describes; check the file")
    return content


def is_packed(path: str | Path) -> bool:
    """True for a gzip file, whatever its name."""
    with Path(path).open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def zero_spacing(header: Nifti1Header) -> bool:
    """True when an unchecked NIfTI header gives an axis no extent. nibabel would take it for 1 mm."""
    ndim = int(np.clip(header["dim"][0], 1, 3))
    return not (np.abs(header["pixdim"][1 : 1 + ndim]) > 0).all()


def plausible_spacing(affine: NDArray) -> bool:
    """True when a voxel-to-world matrix has voxels of a scanned head."""
    sizes = voxel_sizes(affine)
    return bool(sizes.min() >= VOXEL_MM[0] and sizes.max() <= VOXEL_MM[1])


def is_sheared(affine: NDArray) -> bool:
    """True when the axes of a voxel-to-world matrix are far from perpendicular."""
    axes = affine[:3, :3] / voxel_sizes(affine)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > MAX_SHEAR)


def straightened(array: NDArray, affine: NDArray) -> tuple[NDArray, NDArray]:
    """The volume on a covering grid with perpendicular axes, which keeps its first axis and its first plane.

    Args:
        array: (X, Y, Z).
        affine: (4, 4) voxel to world, RAS mm, of full rank.

    Returns:
        The linearly interpolated array, with its least value where nothing is known, and its affine.

    Raises:
        PhanesInputError: the grid is larger than any scan.
    """
    turn, scaled = np.linalg.qr(affine[:3, :3])
    signs = np.sign(np.diag(scaled))
    turn, scaled = turn * signs, scaled * signs[:, None]  # upper triangular, its diagonal positive
    sizes = np.diag(scaled).copy()
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(array.shape) - 1)
    ends = corners @ (scaled / sizes[:, None]).T
    low = np.floor(ends.min(axis=0) + 1e-6)
    shape = np.ceil(ends.max(axis=0) - 1e-6).astype(int) - low.astype(int) + 1
    check_shape(shape)
    back = np.linalg.inv(scaled) @ np.diag(sizes)
    straight = np.eye(4)
    straight[:3, :3], straight[:3, 3] = turn * sizes, affine[:3, 3] + (turn * sizes) @ low
    array = array.astype(np.float32)
    least = float(array.min())
    return ndimage.affine_transform(array, back, back @ low, tuple(shape), order=1, cval=least), straight


def check_position(affine: NDArray, shape: Sequence[int]) -> None:
    """Refuse a voxel-to-world matrix (4, 4) that places no head: singular or of impossible size.

    Raises:
        PhanesInputError: it is one of these.
    """
    if not np.isfinite(affine).all() or (voxel_sizes(affine) <= 0).any():
        raise PhanesInputError("has a header without a usable position (zero or singular affine); mend the header")
    sizes = voxel_sizes(affine)
    text = " x ".join(f"{size:.3g}" for size in sizes)
    if not plausible_spacing(affine):
        raise PhanesInputError(f"has voxels of {text} mm, which no scan of a head has; mend the header")
    axes = affine[:3, :3] / sizes
    if abs(np.linalg.det(axes)) < 1e-3:
        raise PhanesInputError("has a header without a usable position (zero or singular affine); mend the header")
    if (sizes * np.asarray(shape[:3])).max() > MAX_EXTENT_MM:
        raise PhanesInputError(f"is larger than a person ({text} mm voxels); mend the spacing in the header")
