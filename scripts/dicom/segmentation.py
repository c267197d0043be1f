"""The label as a DICOM Segmentation."""

from __future__ import annotations

from typing import Any

from monai.utils import optional_import
from pydicom.sr.codedict import codes

from .concepts import NAME, REGION, RESEARCH, SHORT_NOTICE, Target

highdicom, _ = optional_import("highdicom")


def segmentation(label: Any, target: Target, index: int = 1) -> Any:
    """One binary segment.

    All frames are kept, also those without a marked voxel: readers that know no gaps then see a regular volume, and an
    empty label is a valid object that says where nothing was marked.

    Args:
        label: `highdicom.Volume`, (slices, rows, columns) of 0 and 1, on the source's grid or a part of it.
        target: where the object belongs.
        index: of its series among the results.

    Returns:
        `highdicom.seg.Segmentation`.
    """
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=f"Anomaly ({RESEARCH})",
        segmented_property_category=codes.cid7150.SpatialAndRelationalConcept,
        segmented_property_type=REGION,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=target.software.algorithm(),
        tracking_uid=highdicom.UID(),
        tracking_id=f"{NAME} region above anomaly threshold",
        anatomic_regions=[codes.SCT.Brain],
        display_color=highdicom.color.CIELabColor.from_rgb(0, 255, 255),
    )
    return highdicom.seg.Segmentation(
        source_images=target.images,
        pixel_array=label,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        omit_empty_frames=False,
        content_label="ANOMALY",
        content_description=SHORT_NOTICE,
        **target.series(index, "label"),
        **target.instance(),
        **target.software.equipment(),
    )
