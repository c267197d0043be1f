"""The case's picture as a DICOM Secondary Capture."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.utils import optional_import
from numpy.typing import NDArray

from .concepts import NOTICE, Target, mark_body_part

highdicom, _ = optional_import("highdicom")


def secondary_capture(picture: NDArray[np.uint8], target: Target, series: dict[str, Any], number: int = 1) -> Any:
    """One colour picture.

    Args:
        picture: (rows, columns, 3) RGB; axial panes, anterior up, patient left on the left.
        target: where the object belongs.
        series: `target.series(...)`, the same for all pictures of a run.
        number: of the picture.

    Returns:
        `highdicom.sc.SCImage`. It is marked as holding a person's name, because the title may hold a file's name.
    """
    equipment = target.software.equipment()
    image = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=target.reference,
        pixel_array=np.ascontiguousarray(picture[..., :3]),
        photometric_interpretation=highdicom.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=highdicom.CoordinateSystemNames.PATIENT,
        patient_orientation=("R", "P"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **series,
        **target.instance(number),
        **equipment,
    )
    image.copy_patient_and_study_information(target.reference)
    image.BurnedInAnnotation = "YES"
    image.ImageComments = NOTICE
    return mark_body_part(image, target.reference)
