"""The anomaly map as a DICOM Parametric Map of 32-bit floats."""

from __future__ import annotations

from typing import Any

from monai.utils import optional_import
from pydicom.sr.codedict import codes

from .concepts import ANOMALY, SHORT_NOTICE, SYNTHESIS, Target, mark_body_part

highdicom, _ = optional_import("highdicom")


def parametric_map(anomaly: Any, threshold: float, target: Target, index: int = 2) -> Any:
    """The map's values as they are, without a unit.

    Args:
        anomaly: `highdicom.Volume`, (slices, rows, columns) of float32 >= 0, on the source's grid or a part of it.
        threshold: of the label. The suggested window is at least four times as wide.
        target: where the object belongs.
        index: of its series among the results.

    Returns:
        `highdicom.pm.ParametricMap`.
    """
    top = max(float(anomaly.array.max()), 4.0 * threshold, 1e-6)
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation=ANOMALY.meaning,
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, top),
        slope=1.0,
        intercept=0.0,
        quantity_definition=ANOMALY,
    )
    image = highdicom.pm.ParametricMap(
        source_images=target.images,
        pixel_array=anomaly,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            # Exact: the usual linear function is not defined for windows narrower than 1.
            highdicom.VOILUTTransformation(window_center=top / 2, window_width=top, voi_lut_function="LINEAR_EXACT")
        ],
        content_qualification=highdicom.ContentQualificationValues.RESEARCH,
        content_label="ANOMALY_MAP",
        content_description=SHORT_NOTICE,
        derivation=SYNTHESIS,
        **target.series(index, "anomaly map"),
        **target.instance(),
        **target.software.equipment(),
    )
    return mark_body_part(image, target.reference)
