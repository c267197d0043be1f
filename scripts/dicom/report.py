"""The numbers of a case as a DICOM structured report: TID 1500 Measurement Report in a Comprehensive 3D SR."""

from __future__ import annotations

from typing import Any

from monai.utils import optional_import
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ..space.structures import Share
from .anatomy import finding_site, finding_sites
from .concepts import (
    HEALTHY,
    HEALTHY_BELOW,
    HEALTHY_LARGE,
    MEAN,
    NAME,
    NOTICE,
    PEAK,
    REGION,
    RESEARCH,
    SCORE,
    SHARE,
    THRESHOLD,
    Findings,
    Target,
)

highdicom, _ = optional_import("highdicom")

MR_BRAIN = Code("24590-2", "LN", "MR Brain")


def structured_report(segmentation: Any, anomaly_map: Any, findings: Findings, target: Target) -> Any:
    """A group of measurements a finding (TID 1411), and one for the analysed brain as a whole (TID 1501).

    Args:
        segmentation: the label's object, to whose segments the findings' groups refer.
        anomaly_map: the map's object, to which the last group refers.
        findings: the case's numbers.
        target: where the report belongs.

    Returns:
        `highdicom.sr.Comprehensive3DSR`.
    """
    sr = highdicom.sr
    algorithm = target.software.algorithm_of_report()

    def measured(name: Code, value: float, unit: Code, site: Share | None = None) -> Any:
        places = None if site is None else [finding_site(site)]
        value = float(f"{value:.6g}")
        return sr.Measurement(name=name, value=value, unit=unit, algorithm_id=algorithm, finding_sites=places)

    groups = []
    for segment, region in zip(segmentation.SegmentSequence, findings.regions, strict=False):
        measurements = [
            measured(codes.SCT.Volume, region.volume_mm3, codes.UCUM.CubicMillimeter),
            measured(MEAN, region.mean, codes.UCUM.NoUnits),
            measured(PEAK, region.peak, codes.UCUM.NoUnits),
        ]
        healthy = ((HEALTHY, region.healthy), (HEALTHY_LARGE, region.healthy_large))
        measurements += [measured(name, value, codes.UCUM.NoUnits) for name, value in healthy if value is not None]
        measurements += [measured(SHARE, one.share, codes.UCUM.NoUnits, one) for one in region.structures]
        groups.append(
            sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
                referenced_segment=sr.ReferencedSegment(
                    sop_class_uid=segmentation.SOPClassUID,
                    sop_instance_uid=segmentation.SOPInstanceUID,
                    segment_number=int(segment.SegmentNumber),
                    source_series=sr.SourceSeriesForSegmentation(target.reference.SeriesInstanceUID),
                ),
                finding_type=REGION,
                finding_sites=finding_sites(region.structures),
                algorithm_id=algorithm,
                measurements=measurements,
            )
        )
    numbers = [
        measured(SCORE, findings.anomaly_score, codes.UCUM.NoUnits),
        measured(THRESHOLD, findings.threshold, codes.UCUM.NoUnits),
    ]
    if findings.healthy_below is not None:
        numbers.append(measured(HEALTHY_BELOW, findings.healthy_below, codes.UCUM.NoUnits))
    whole = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=highdicom.UID(), identifier=f"{NAME} analysed brain"),
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(anomaly_map)],
        algorithm_id=algorithm,
        finding_sites=finding_sites(()),
        measurements=numbers,
    )
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=highdicom.UID(), name=f"{NAME} ({RESEARCH})", manufacturer_name=NAME, model_name=target.software.version
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=MR_BRAIN,
        imaging_measurements=[*groups, whole],
        title=codes.cid7021.ImagingMeasurementReport,
    )
    report[0].ContentSequence.append(
        sr.TextContentItem(name=codes.DCM.Comment, value=NOTICE, relationship_type=sr.RelationshipTypeValues.CONTAINS)
    )
    return sr.Comprehensive3DSR(
        evidence=[*target.images, segmentation, anomaly_map],
        content=report[0],
        is_complete=True,
        **target.series(5, "report"),
        **target.instance(),
        **target.software.equipment(),
    )
