"""The pseudo-healthy image as a derived MR series, one MR Image object a slice."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.utils import optional_import
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from .concepts import NOTICE, PATIENT_AND_STUDY, SYNTHESIS, Target, mark_body_part
from .headers import header_values

highdicom, _ = optional_import("highdicom")

# Attributes of the MR Image module that say how the source was acquired (PS3.3 C.8.3.1), with defaults where needed.
ACQUISITION = {
    "ScanningSequence": "RM",  # "research mode": an enhanced object has no such attribute
    "SequenceVariant": "NONE",
    "ScanOptions": None,
    "MRAcquisitionType": None,
    "RepetitionTime": None,
    "EchoTime": None,
    "EchoTrainLength": None,
}
SCALING = ("Slope", "Intercept")
OPTIONAL = (
    *("InversionTime", "FlipAngle", "MagneticFieldStrength", "ImagingFrequency", "ImagedNucleus", "SequenceName"),
    *("PatientPosition", "PositionReferenceIndicator", "AcquisitionNumber"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)


def stored_values(voxels: NDArray, source: Dataset) -> tuple[NDArray, float, float]:
    """16-bit integers for real values, with the slope and intercept that lead back.

    If most values are integers, as they are or in the source's scaling, these are stored and the others rounded. So
    what equals the source stays equal. Otherwise the values use the whole range of 16 bits.
    """
    own = [float(next(iter(header_values(source, f"Rescale{name}")), 1.0 - i)) for i, name in enumerate(SCALING)]
    for slope, intercept in ((1.0, 0.0), (own[0] or 1.0, own[1])):
        values = (voxels - intercept) / slope
        whole = np.mean(np.abs(values - np.round(values)) < 1e-2) > 0.5
        for kind in (np.uint16, np.int16):
            limits = np.iinfo(kind)
            if whole and limits.min <= values.min() and values.max() <= limits.max:
                return np.round(values).astype(kind), slope, intercept
    low, high = float(voxels.min()), float(voxels.max())
    slope, intercept = float(_decimal((high - low) / 65535 or 1.0)), float(_decimal(low))
    return np.clip(np.round((voxels - intercept) / slope), 0, 65535).astype(np.uint16), slope, intercept


def derived_mr_series(volume: Any, first: int, target: Target, index: int = 3) -> list[Any]:
    """MR Image objects at the places of the source's slices.

    Args:
        volume: `highdicom.Volume`, (slices, rows, columns) in the source's real units.
        first: the source's slice that `volume` begins with.
        target: where the objects belong.
        index: of their series among the results.

    Returns:
        One `highdicom.base.SOPClass` a slice.
    """
    stored, slope, intercept = stored_values(volume.array, target.reference)
    window = np.percentile(volume.array, [1, 99.8])
    series = target.series(index, "pseudo-healthy image")
    return [
        _derived_slice(
            pixels, volume, i, first + i, (slope, intercept), window, target, {**series, **target.instance(i + 1)}
        )
        for i, pixels in enumerate(stored)
    ]


def _derived_slice(
    pixels: NDArray,
    volume: Any,
    plane: int,
    number: int,
    scaling: tuple[float, float],
    window: NDArray,
    target: Target,
    identity: dict[str, Any],
) -> Any:
    source, frame = target.frames[number]
    identity = {k: v for k, v in identity.items() if k not in ("content_date", "content_time")}
    image = highdicom.base.SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        sop_class_uid=MRImageStorage,
        modality="MR",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=source.get("SpecificCharacterSet"),
        **{_snake(name): source.get(name) for name in PATIENT_AND_STUDY},
        **identity,
        **target.software.equipment(),
        content_date=target.now.date(),
        content_time=target.now.time(),
    )
    image.copy_patient_and_study_information(source)
    image._add_contributing_equipment(None, source)
    for keyword, default in ACQUISITION.items():
        values = header_values(source, keyword)
        setattr(image, keyword, (values if len(values) > 1 else values[0]) if values else default)
    if not image.EchoTime:
        image.EchoTime = next(iter(header_values(source, "EffectiveEchoTime")), None)
    for keyword in OPTIONAL:
        values = header_values(source, keyword)
        if values:
            setattr(image, keyword, values if len(values) > 1 else values[0])

    image.ImageType = ["DERIVED", "SECONDARY", "OTHER", "PSEUDO_HEALTHY"]
    image.FrameOfReferenceUID = source.FrameOfReferenceUID
    for keyword in ("PatientPosition", "PositionReferenceIndicator", "AcquisitionNumber"):
        if keyword not in image:
            setattr(image, keyword, None)
    image.ImageComments = NOTICE
    image.DerivationDescription = "Pseudo-healthy image: marked tissue replaced by generated tissue. Research use only."
    image.DerivationCodeSequence = [highdicom.sr.CodedConcept.from_code(SYNTHESIS)]
    image.SourceImageSequence = DicomSequence([_reference(source, None if frame is None else frame + 1)])
    image.BurnedInAnnotation = "NO"
    image.RecognizableVisualFeatures = "YES"

    position, orientation = volume.get_plane_position(plane)[0], volume.get_plane_orientation()[0]
    exact = source if frame is None else None  # bit for bit the source's own place
    image.ImagePositionPatient = (exact or position).ImagePositionPatient
    image.ImageOrientationPatient = (exact or orientation).ImageOrientationPatient
    image.PixelSpacing = exact.PixelSpacing if exact else volume.get_pixel_measures()[0].PixelSpacing
    image.SliceThickness = next(iter(header_values(source, "SliceThickness")), volume.spacing_between_slices)
    image.SpacingBetweenSlices = _decimal(volume.spacing_between_slices)

    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
    if scaling != (1.0, 0.0):
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = *map(_decimal, scaling), "US"
    image.WindowCenter, image.WindowWidth = _decimal(window.mean()), _decimal(max(np.ptp(window), 1.0))
    image.PixelData = pixels.tobytes()
    return mark_body_part(image, source)


def _snake(keyword: str) -> str:
    """Keyword as highdicom names its argument: StudyInstanceUID -> study_instance_uid, PatientID -> patient_id."""
    words = keyword.replace("ID", "Id")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in words).lstrip("_")


def _reference(source: Dataset, frame: int | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame
    purpose = codes.cid7202.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [highdicom.sr.CodedConcept.from_code(purpose)]
    return item


def _decimal(value: float) -> str:
    """Decimal string of at most 16 characters."""
    return f"{float(value):.9g}"
