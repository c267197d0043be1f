"""One DICOM series as a volume at its place in the patient, and as the source that results refer to."""

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
from .geometry import ORIENTATION_TOLERANCE, SPACING_TOLERANCE, planes_of, stack_problem
from .headers import check_deflated, is_dicom_file

# Not in every host's environment: it needs pydicom 3, and MONAI Label has pydicom 2. NIfTI and PNG work without it.
highdicom, _ = optional_import("highdicom")

# `stack_problem` is the stricter check, with sentences; highdicom's own, without, shall not refuse what it accepts.
TOLERANCES = {"rtol": 2 * SPACING_TOLERANCE, "orientation_tol": 2 * ORIENTATION_TOLERANCE}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SourceSeries:
    """The images of one series that make a volume.

    Attributes:
        images: single-frame objects in the order of the volume's slices, or one multi-frame object.
        geometry: `highdicom.VolumeGeometry`, axes (slice, row, column), LPS.
        note: what was mended, "" for nothing.
    """

    images: tuple[Dataset, ...]
    geometry: Any
    note: str = ""

    @property
    def multiframe(self) -> bool:
        """True for an enhanced object."""
        return "PerFrameFunctionalGroupsSequence" in self.images[0]

    @property
    def affine(self) -> NDArray:
        """(4, 4), from indices (column, row, slice) to RAS, mm: the axes that DICOM to NIfTI converters use."""
        return LPS_TO_RAS @ self.geometry.affine[:, [2, 1, 0, 3]]

    def array(self) -> NDArray[np.float32]:
        """(columns, rows, slices), with rescaling, real world values and MONOCHROME1 applied."""
        if self.multiframe:
            image = highdicom.Image.from_dataset(self.images[0], copy=False)
            volume = image.get_volume(dtype=np.float32, rtol=TOLERANCES["rtol"])
        else:
            volume = highdicom.image.get_volume_from_series(list(self.images), dtype=np.float32, **TOLERANCES)
        return np.ascontiguousarray(volume.array.transpose(2, 1, 0))


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
        pixels: False reads headers only; `SourceSeries.array` is not available then.

    Returns:
        The series, its slices sorted by position.

    Raises:
        PhanesInputError: the files are not the slices of one volume; the sentence, without the path, says why.
        Exception: whatever pydicom raises on a broken file.
    """
    files = series_files(path)
    for file in files:
        check_deflated(file)
    images = [pydicom.dcmread(file, stop_before_pixels=not pixels, force=True) for file in files]
    images = [image for image in images if "Rows" in image and (not pixels or "PixelData" in image)]
    if not images:
        raise PhanesInputError("holds no DICOM images")
    for image in images:
        _complete_file_meta(image)
        if pixels:
            check_frames(image)
    _check_one_series(images)
    note = _add_missing(images)
    planes = planes_of(images)
    problem = planes if isinstance(planes, str) else stack_problem(planes)
    if isinstance(planes, str) or problem:
        raise PhanesInputError(problem)

    if "PerFrameFunctionalGroupsSequence" in images[0]:
        if len(images) > 1:
            raise PhanesInputError(f"holds {len(images)} multi-frame images; give a single one")
        geometry = highdicom.Image.from_dataset(images[0], copy=False).get_volume_geometry(rtol=TOLERANCES["rtol"])
        if geometry is None:
            raise PhanesInputError("is no single stack of equally spaced slices")
        return SourceSeries(tuple(images), geometry, note)

    spacing, places = highdicom.spatial.get_series_volume_positions(images, **TOLERANCES)
    if spacing is None:
        raise PhanesInputError("is no single stack of equally spaced slices")
    ordered = [images[places.index(i)] for i in range(len(images))]
    geometry = highdicom.VolumeGeometry.from_attributes(
        image_position=ordered[0].ImagePositionPatient,
        image_orientation=ordered[0].ImageOrientationPatient,
        rows=ordered[0].Rows,
        columns=ordered[0].Columns,
        number_of_frames=len(ordered),
        pixel_spacing=ordered[0].PixelSpacing,
        spacing_between_slices=spacing if len(ordered) > 1 else _single_slice_mm(ordered[0]),
        coordinate_system="PATIENT",
        frame_of_reference_uid=ordered[0].FrameOfReferenceUID,
    )
    return SourceSeries(tuple(ordered), geometry, note)


def _complete_file_meta(image: Dataset) -> None:
    """Files without a preamble carry no transfer syntax: take the one pydicom found when it parsed them."""
    if not hasattr(image, "file_meta"):
        image.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in image.file_meta:
        implicit, _ = image.original_encoding
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _check_one_series(images: Sequence[Dataset]) -> None:
    """Raise when the images differ in what all images of one stack share."""
    counts = {
        "DICOM series": ("SeriesInstanceUID", "give each a folder of its own, or choose one with --series_uid"),
        "kinds of DICOM objects": ("SOPClassUID", "give the images alone"),
        "frames of reference": ("FrameOfReferenceUID", "they cannot be placed together; separate them"),
    }
    for what, (name, advice) in counts.items():
        number = len({str(image.get(name, "")) for image in images})
        if number > 1:
            raise PhanesInputError(f"holds {number} {what}; {advice}")
    samples = Counter(int(image.get("SamplesPerPixel", 1)) for image in images)
    if samples[1] != len(images):
        raise PhanesInputError("holds colour images; give the grey original images")


def _add_missing(images: Sequence[Dataset]) -> str:
    """Give identifiers that highdicom needs to images that lost them; the note says so."""
    first = images[0]
    if first.get("FrameOfReferenceUID") and first.get("SeriesInstanceUID"):
        return ""
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        value = first.get(name) or pydicom.uid.generate_uid(entropy_srcs=[name, str(first.get("SOPInstanceUID", ""))])
        for image in images:
            setattr(image, name, value)
    return "its DICOM header lacks a series or frame of reference UID"


def _single_slice_mm(image: Dataset) -> float:
    """Distance that one slice stands for: the spacing between slices, else the slice's thickness, else 1 mm."""
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = float(image.get(name) or 0.0)
        if value > 0:
            return value
    return 1.0
