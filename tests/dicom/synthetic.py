"""MR series made by code: any orientation, instance order, transfer syntax and defect; valid by dciodvfy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

STUDY, FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame of reference"])
# Row and column direction of the image plane (LPS): the six orientations, one oblique among them.
PLANES = {
    "axial": ([1, 0, 0], [0, 1, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1]),
    "sagittal": ([0, 1, 0], [0, 0, -1]),
    "axial negated": ([-1, 0, 0], [0, -1, 0]),
    "coronal negated": ([-1, 0, 0], [0, 0, 1]),
    "sagittal negated": ([0, -1, 0], [0, 0, 1]),
    "oblique": ([0.96, 0.28, 0], [-0.168, 0.576, -0.8]),
}

SHARED_BY_FRAMES = """
    StudyDate StudyTime AccessionNumber Modality Manufacturer ReferringPhysicianName SeriesDescription PatientName
    PatientID PatientBirthDate PatientSex StudyInstanceUID SeriesInstanceUID StudyID SeriesNumber FrameOfReferenceUID
    PositionReferenceIndicator SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit
    PixelRepresentation ContentDate ContentTime BodyPartExamined
"""


def header(**changes: Any) -> Dataset:
    """What all images of a 3-D gradient-echo series share."""
    ds = Dataset()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.SOPClassUID = MRImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240102"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "030405"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "A1", "MR", "Maker"
    ds.ReferringPhysicianName, ds.SeriesDescription = "Doe^Ref", "t1_mprage_sag"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^Head", "P1", "19700101", "O"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = ["GR", "IR"], ["SP", "MP"], "PFF"
    ds.MRAcquisitionType, ds.SequenceName = "3D", "tfl"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime, ds.FlipAngle, ds.EchoTrainLength = 2000, 2.5, 900, 9, 1
    ds.MagneticFieldStrength = 3
    ds.PatientPosition, ds.BodyPartExamined = "HFS", "HEAD"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, generate_uid(entropy_srcs=["series"])
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "S1", 4, 1
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = FRAME, ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    for name, value in changes.items():
        setattr(ds, name, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def slices(
    voxels: np.ndarray,
    plane: str = "axial",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin: tuple[float, float, float] = (-30.0, -40.0, 20.0),
    reverse: bool = False,
    change: Callable[[int], dict[str, Any]] = lambda i: {},
    **changes: Any,
) -> list[Dataset]:
    """Single-frame images of (slices, rows, columns), in the order of their instance numbers.

    Args:
        voxels: stored values.
        plane: key of `PLANES`.
        spacing: mm between slices, rows, columns.
        origin: LPS position of the first voxel of the first slice.
        reverse: stack against the normal of the image plane instead of along it.
        change: attributes of the image with that index.
        changes: attributes of all images.
    """
    row, column = (np.array(v, dtype=float) for v in PLANES[plane])
    step = np.cross(row, column) * spacing[0] * (-1 if reverse else 1)
    images = []
    for i, pixels in enumerate(voxels):
        ds = header(**changes)
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(ds.SeriesInstanceUID), plane, str(origin), str(i)])
        ds.InstanceNumber = i + 1
        ds.ImageOrientationPatient = [*row, *column]
        ds.ImagePositionPatient = [round(float(v), 6) for v in np.array(origin) + i * step]
        ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = list(spacing[1:]), spacing[0], spacing[0]
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = pixels.astype(np.uint16).tobytes()
        for name, value in change(i).items():
            setattr(ds, name, value)
        images.append(ds)
    return images


def save(images: Iterable[Dataset], folder: Path, name: Callable[[int], str] = "{:04d}.dcm".format) -> Path:
    """Write images as files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, ds in enumerate(images):
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / name(i), enforce_file_format=True)
    return folder


def lps(plane: str, spacing: tuple, origin: tuple, index: np.ndarray, reverse: bool = False) -> np.ndarray:
    """Position of voxels (N, 3: slice, row, column) by the standard's formula (PS3.3 C.7.6.2.1.1)."""
    row, column = (np.array(v, dtype=float) for v in PLANES[plane])
    step = np.cross(row, column) * (-1 if reverse else 1)
    index = np.atleast_2d(index)
    return (
        np.array(origin)
        + index[:, :1] * spacing[0] * step
        + index[:, 1:2] * spacing[1] * column
        + index[:, 2:3] * spacing[2] * row
    )


def enhanced(images: list[Dataset], order: Iterable[int] | None = None) -> Dataset:
    """The same images as one Enhanced MR object, its frames in the given order."""
    images = [images[i] for i in order] if order is not None else images
    first = images[0]
    ds = Dataset()
    for name in SHARED_BY_FRAMES.split():
        setattr(ds, name, getattr(first, name))
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedMRImageStorage, generate_uid(entropy_srcs=["enhanced"])
    ds.InstanceNumber, ds.NumberOfFrames = 1, len(images)
    ds.ImageType, ds.AcquisitionContrast = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "T1"
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    measures = shared.PixelMeasuresSequence[0]
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    measures.SpacingBetweenSlices = first.SpacingBetweenSlices
    shared.PlaneOrientationSequence = Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelValueTransformationSequence = Sequence([Dataset()])
    transformation = shared.PixelValueTransformationSequence[0]
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = 10, 2, "US"
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(entropy_srcs=["dimensions"])
    ds.DimensionOrganizationSequence = Sequence([organization])
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00209057, 0x00209111  # in-stack position
    ds.DimensionIndexSequence = Sequence([index])
    ds.PerFrameFunctionalGroupsSequence = Sequence([])
    for i, image in enumerate(images):
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = image.ImagePositionPatient
        frame.FrameContentSequence = Sequence([Dataset()])
        content = frame.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", i + 1, [i + 1]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    ds.PixelData = b"".join(image.PixelData for image in images)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds
