"""The findings as a DICOM Segmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.utils import optional_import
from pydicom.sr.codedict import codes

from .anatomy import anatomic_regions
from .concepts import NAME, REGION, RESEARCH, SHORT_NOTICE, Findings, Region, Target

highdicom, _ = optional_import("highdicom")

# RGB, in turn: seven that readers of every colour vision tell apart (Okabe and Ito, Color universal design, 2008).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def segmentation(label: Any, findings: Findings, target: Target, index: int = 1) -> Any:
    """One binary segment a finding, or an empty one where there is none.

    The frames run from the first to the last slice with a finding, without a gap: readers then see a regular volume. An
    empty label has all slices: a valid object that says where nothing was marked.

    Args:
        label: `highdicom.Volume`, (slices, rows, columns) of the findings' numbers, on the source's grid or a part.
        findings: the case's.
        target: where the object belongs.
        index: of its series among the results.

    Returns:
        `highdicom.seg.Segmentation`.
    """
    regions = findings.regions or [Region("No finding", 0.0, 0.0, 0.0)]
    touched = np.flatnonzero(label.array.any(axis=(1, 2)))
    if touched.size:
        label = label[touched[0] : touched[-1] + 1]
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"{region.label} ({RESEARCH})",
            segmented_property_category=codes.cid7150.SpatialAndRelationalConcept,
            segmented_property_type=REGION,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=target.software.algorithm(),
            tracking_uid=highdicom.UID(),
            tracking_id=f"{NAME} {region.name.lower()}",
            anatomic_regions=anatomic_regions(region.structures),
            display_color=highdicom.color.CIELabColor.from_rgb(*COLOURS[(number - 1) % len(COLOURS)]),
        )
        for number, region in enumerate(regions, start=1)
    ]
    return highdicom.seg.Segmentation(
        source_images=target.images,
        pixel_array=label,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        omit_empty_frames=False,
        content_label="ANOMALY",
        content_description=SHORT_NOTICE,
        **target.series(index, "label"),
        **target.instance(),
        **target.software.equipment(),
    )
