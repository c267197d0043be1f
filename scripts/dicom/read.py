"""One DICOM series as a volume at its place in the patient. Results refer to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.utils import optional_import
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..common.errors import PhanesInputError
from .codestream import check_frames
from .frames import Frame, frames_of, one_a_position, without_strays
from .geometry import Stack, arrange, check_parallel
from .headers import check_deflated, is_dicom_file

# Not in every host's environment: it needs pydicom 3, and MONAI Label has pydicom 2. NIfTI and PNG work without it.
highdicom, _ = optional_import("highdicom")

LEAST_SLICES = 3  # fewer tell nothing of their identifiers
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SourceSeries:
    """The images of one series that make a volume.

    Attributes:
        images: the objects, in the order of the volume's slices.
        frames: the image behind each slice.
        stack: where they lie.
        note: what was chosen or mended, "" for nothing.
        unfit: a sentence why no DICOM result can refer to it; "" where one can.
    """

    images: tuple[Dataset, ...]
    frames: tuple[Frame, ...]
    stack: Stack
    note: str = ""
    unfit: str = ""

    @property
    def geometry(self) -> Any:
        """`highdicom.VolumeGeometry`, axes (slice, row, column), LPS; not of a sheared stack."""
        return highdicom.VolumeGeometry(
            affine=self.stack.affine,
            spatial_shape=self.shape,
            coordinate_system="PATIENT",
            frame_of_reference_uid=self.images[0].FrameOfReferenceUID,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return (len(self.frames), *self.frames[0].plane.shape)

    @property
    def affine(self) -> NDArray:
        """(4, 4), from indices (column, row, slice) to RAS+, mm, the axes of DICOM to NIfTI converters."""
        return LPS_TO_RAS @ self.stack.affine[:, [2, 1, 0, 3]]

    def array(self) -> NDArray[np.float32]:
        """(columns, rows, slices), with rescaling, real world values and MONOCHROME1 applied.

        What the header calls padding becomes the image's least value, if it lies far outside of its values.
        """
        volume = np.stack([frame.values() for frame in self.frames])
        padding = np.stack([frame.padding() for frame in self.frames])
        if padding.any() and not padding.all():
            low, high = volume[~padding].min(), volume[~padding].max()
            margin = 0.1 * (high - low)
            padding &= (volume < low - margin) | (volume > high + margin)
            volume[padding] = low
        if self.images[0].get("PhotometricInterpretation") == "MONOCHROME1":
            volume = volume.max() + volume.min() - volume
        return np.ascontiguousarray(volume.transpose(2, 1, 0))


def series_files(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The DICOM files that a file, a folder or a list of files stands for."""
    if isinstance(path, (str, Path)):
        path = Path(path)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [file for file in files if file.is_file() and file.name != "DICOMDIR" and is_dicom_file(file)]
    return [Path(file) for file in path]


def read_source(path: str | Path | Sequence[str | Path], pixels: bool = True) -> SourceSeries:
    """Read one series.

    Args:
        path: a folder that holds one series, a file (multi-frame or a single slice), or the series' files.
        pixels: False reads headers only. `SourceSeries.array` is not available then.

    Returns:
        The series, its slices sorted by position.

    Raises:
        PhanesInputError: the files are not the slices of one volume. The path is left out.
        Exception: whatever pydicom raises on a broken file.
    """
    files = series_files(path)
    for file in files:
        check_deflated(file)
    images = [pydicom.dcmread(file, stop_before_pixels=not pixels, force=True) for file in files]
    empty = [image for image in images if "Rows" not in image or (pixels and "PixelData" not in image)]
    images = [image for image in images if not any(image is one for one in empty)]
    if not images:
        raise PhanesInputError("holds no DICOM images; give a folder that holds some")
    for image in images:
        _complete_file_meta(image)
        if pixels:
            check_frames(image)
    unfit = _check_one_series(images)
    notes = _add_missing(images)
    if unfit or notes or not images[0].get("StudyInstanceUID"):
        unfit = f"lacks the identifiers of its study{unfit}: no DICOM results can refer to it"
    frames, left_out = without_strays(frames_of(images))
    check_parallel([frame.plane for frame in frames])
    frames, chosen = one_a_position(frames, pixels)
    if empty:
        notes.append(f"{len(empty)} files hold no pixels")
    stack = arrange([frame.plane for frame in frames], single_slice_mm(frames[0]) or 1.0)
    frames = [frames[i] for i in stack.order]
    if stack.sheared:
        unfit = unfit or "is sheared: no DICOM results can lie on its slices"
    used = {id(frame.image): frame.image for frame in frames}
    return SourceSeries(
        tuple(used.values()),
        tuple(frames),
        stack,
        "; ".join(filter(None, [*notes, *left_out, *chosen, stack.note])),
        unfit,
    )


def _complete_file_meta(image: Dataset) -> None:
    """Give files without a preamble the transfer syntax that pydicom found when it parsed them."""
    if not hasattr(image, "file_meta"):
        image.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in image.file_meta:
        implicit, _ = image.original_encoding
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _check_one_series(images: Sequence[Dataset]) -> str:
    """Raise when the images differ in what one stack shares. Returns which identifier is of no use to an object.

    An export can lose an identifier: then each image has its own, or all have the same. It tells nothing.
    """
    counts = {
        "DICOM series": ("SeriesInstanceUID", "give each a folder of its own, or choose one with --series_uid"),
        "kinds of DICOM objects": ("SOPClassUID", "give the images alone"),
        "frames of reference": ("FrameOfReferenceUID", "they cannot be placed together; separate them"),
    }
    lost = []
    for what, (name, advice) in counts.items():
        number = len({str(image.get(name, "")) for image in images})
        if number == len(images) >= LEAST_SLICES and name != "SOPClassUID":
            lost.append(name)
        elif number > 1:
            raise PhanesInputError(f"holds {number} {what}; {advice}")
    samples = Counter(int(image.get("SamplesPerPixel", 1)) for image in images)
    if samples[1] != len(images):
        raise PhanesInputError("holds colour images; give the grey original images")
    if len({str(image.get("SOPInstanceUID", i)) for i, image in enumerate(images)}) < len(images):
        lost.append("SOPInstanceUID")
    return f" ({lost[0]} is the same in all images, or another in each)" if lost else ""


def _add_missing(images: Sequence[Dataset]) -> list[str]:
    """Give images that lost them the identifiers that highdicom needs. The note says so."""
    first = images[0]
    if first.get("FrameOfReferenceUID") and first.get("SeriesInstanceUID"):
        return []
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        value = first.get(name) or pydicom.uid.generate_uid(entropy_srcs=[name, str(first.get("SOPInstanceUID", ""))])
        for image in images:
            setattr(image, name, value)
    return ["its DICOM header lacks a series or frame of reference UID"]


def single_slice_mm(frame: Frame) -> float | None:
    """Distance that one slice stands for, mm: the spacing of slices, otherwise its thickness. None without these."""
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = float(frame.text([name]) or 0.0)
        if value > 0:
            return value
    return None
