"""What all result objects share: their maker, coded concepts, their study, and the notice they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from monai.utils import optional_import
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from ..common.provenance import provenance
from ..space.structures import Share
from .headers import header_number
from .read import SourceSeries

highdicom, _ = optional_import("highdicom")

SHORT_NOTICE = "Research use only; not a medical device"
NOTICE = f"{SHORT_NOTICE}. A low score does not exclude disease; a marked region need not be a lesion."
RESEARCH = "research use only"
NAME = "PHANES"
MAX_NUMBERS = 20  # of the label; weaker findings share the last one
SCHEME = "99PHANES"  # private coding scheme for what no public one has a code for

REGION = Code("region", SCHEME, "Region above anomaly threshold")
ANOMALY = Code("anomaly-map", SCHEME, "Anomaly map of PHANES, equation 4")
SCORE = Code("score", SCHEME, "Anomaly score: mean of the anomaly map over the analysed brain")
MEAN = Code("mean", SCHEME, "Mean of the anomaly map over the finding")
PEAK = Code("peak", SCHEME, "Highest value of the anomaly map in the finding")
HEALTHY = Code("healthy", SCHEME, "Share of healthy heads with a finding as strong")
HEALTHY_LARGE = Code("healthy-large", SCHEME, "Share of healthy heads with a finding as strong and as large")
HEALTHY_BELOW = Code("healthy-below", SCHEME, "Share of healthy heads with a lower anomaly score")
SHARE = Code("share", SCHEME, "Share of the finding in the structure")
THRESHOLD = Code("threshold", SCHEME, "Threshold of the anomaly map")
SYNTHESIS = Code("synthesis", SCHEME, "Pseudo-healthy synthesis")

# Type 2 attributes that highdicom takes from the source without asking whether they are there.
PATIENT_AND_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class Region:
    """One number of the label: a finding, or the weaker ones that share the last number.

    Attributes:
        name: "Finding 1", "Findings 20 to 23".
        volume_mm3: of all voxels with the number.
        mean: of the anomaly map, of the strongest finding with this number.
        peak: likewise.
        healthy: share of healthy heads with a finding as strong; None where the calibration does not know it.
        healthy_large: likewise, as strong and as large.
        structures: that it lies in, the largest share first; none for findings that share a number.
    """

    name: str
    volume_mm3: float
    mean: float
    peak: float
    healthy: float | None = None
    healthy_large: float | None = None
    structures: Sequence[Share] = ()

    @property
    def label(self) -> str:
        """The name with the structure that most of it lies in, "Finding 1: left thalamus"."""
        return f"{self.name}: {self.structures[0].name}" if self.structures else self.name


@dataclass(frozen=True)
class Findings:
    """The numbers of one case.

    Attributes:
        anomaly_score: mean of the anomaly map over the analysed brain, on the network's grid.
        threshold: of the label.
        regions: by their number in the label, 1 is the first.
        healthy_below: share of healthy heads with a lower anomaly score; None where not recorded.
    """

    anomaly_score: float
    threshold: float
    regions: Sequence[Region] = ()
    healthy_below: float | None = None


@dataclass(frozen=True)
class Software:
    """What made the results, as in run.json (`common.provenance`).

    Attributes:
        record: versions, settings, weights_sha256, calibrated.
    """

    record: Mapping[str, Any] = field(default_factory=lambda: provenance({}, {}))

    @property
    def version(self) -> str:
        """Of the code."""
        return str(self.record["versions"][NAME])

    @property
    def weights(self) -> str:
        """SHA-256 of the weights, or "unknown"."""
        return str(self.record["weights_sha256"] or "unknown")

    def parameters(self) -> dict[str, str]:
        """Settings, weights and calibration, name to value."""
        return {
            **self.record["settings"],
            "weights": self.weights,
            "calibrated": str(self.record["calibrated"] or "unknown"),
        }

    def equipment(self) -> dict[str, Any]:
        """Arguments of the General and Enhanced General Equipment modules, for highdicom's constructors."""
        return {
            "manufacturer": NAME,
            "manufacturer_model_name": f"{NAME} T1w brain anomaly ({RESEARCH})",
            "software_versions": [
                self.version,
                *(f"{name} {version}" for name, version in self.record["versions"].items() if name != NAME),
                f"weights {self.weights[:16]}",
            ],
            "device_serial_number": self.weights[:16],
        }

    def algorithm(self) -> Any:
        """Algorithm identification macro of a segment."""
        return highdicom.AlgorithmIdentificationSequence(
            name=NAME,
            family=ARTIFICIAL_INTELLIGENCE,
            version=self.version,
            source=f"{NAME} ({RESEARCH})",
            parameters=self.parameters(),
        )

    def algorithm_of_report(self) -> Any:
        """The same as a template of a structured report (TID 4019)."""
        return highdicom.sr.AlgorithmIdentification(
            name=NAME,
            version=self.version,
            family=ARTIFICIAL_INTELLIGENCE,
            parameters=[f"{name}={value}" for name, value in self.parameters().items()],
        )


ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")


class Target:
    """Where new objects of one run belong: in the source's study, with their own series numbers and UIDs.

    Args:
        source: the series that was analysed.
        software: what made the results.
    """

    def __init__(self, source: SourceSeries, software: Software) -> None:
        self.images = [_completed(image) for image in source.images]
        completed = dict(zip(map(id, source.images), self.images, strict=True))
        self.frames = [(completed[id(frame.image)], frame.number) for frame in source.frames]
        self.software = software
        self.now = datetime.now()
        number = header_number(self.images[0], "SeriesNumber") or 0
        self.first_number = 1000 * number if 0 < number < 2**20 else 9000

    @property
    def reference(self) -> Dataset:
        """The source image that gives the results their patient, study and frame of reference."""
        return self.images[0]

    def series(self, index: int, description: str) -> dict[str, Any]:
        """Arguments of a new series: number, UID, date, and a description that says "research use only"."""
        return {
            "series_instance_uid": highdicom.UID(),
            "series_number": self.first_number + index,
            "series_description": f"{NAME} {description} - {RESEARCH}",
            "series_date": self.now.date(),
            "series_time": self.now.time(),
            "content_date": self.now.date(),
            "content_time": self.now.time(),
            "coding_schemes": [coding_scheme()],
        }

    def instance(self, number: int = 1) -> dict[str, Any]:
        """Arguments of a new instance."""
        return {"sop_instance_uid": highdicom.UID(), "instance_number": number}


def mark_body_part(image: Any, source: Dataset) -> Any:
    """Say which part of the body an image shows, as the source does. Without it a viewer asks for a side."""
    image.BodyPartExamined = source.get("BodyPartExamined") or "BRAIN"
    return image


def coding_scheme() -> Any:
    """Identification of the private coding scheme."""
    return highdicom.coding_schemes.CodingSchemeIdentificationItem(
        designator=SCHEME, name=f"{NAME} private codes", version="1", responsible_organization=NAME
    )


def _completed(image: Dataset) -> Dataset:
    """The image with all attributes that highdicom asks for. Those that the source lacks are empty."""
    image = copy(image)
    for keyword in PATIENT_AND_STUDY:
        if keyword not in image:
            setattr(image, keyword, None)
    return image
