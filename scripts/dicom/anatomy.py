"""The atlas' structures as SNOMED CT codes, first those of the context group of brain structures (CID 7140)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.utils import optional_import
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ..space.structures import Share

highdicom, _ = optional_import("highdicom")

LOCATIONS: dict[str, Code] = {
    "cerebral white matter": codes.cid7140.CerebralWhiteMatter,
    "cerebral cortex": codes.SCT.CerebralCortex,
    "lateral ventricle": codes.cid7140.LateralVentricle,
    "cerebellar white matter": codes.cid7140.CerebellarWhiteMatter,
    "cerebellar cortex": codes.cid7140.CerebellarCortex,
    "thalamus": codes.SCT.Thalamus,
    "caudate nucleus": codes.cid7140.CaudateNucleus,
    "putamen": codes.cid7140.Putamen,
    "pallidum": codes.cid7140.GlobusPallidus,
    "hippocampus": codes.cid7140.Hippocampus,
    "amygdala": codes.cid7140.Amygdala,
    "nucleus accumbens": codes.cid7140.NucleusAccumbens,
    "ventral diencephalon": codes.cid7140.VentralDiencephalon,
    "brainstem": codes.cid7140.BrainStem,
    "third ventricle": codes.cid7140.ThirdVentricle,
    "fourth ventricle": codes.cid7140.FourthVentricle,
    "subarachnoid space": codes.cid7140.CranialSubarachnoidSpace,
}
LATERALITY = {"left": codes.SCT.Left, "right": codes.SCT.Right}
LEAST_SITE = 0.1  # of a finding, in a structure that counts as its site


def sites(shares: Sequence[Share]) -> list[Share]:
    """The structures that hold a good part of a finding."""
    return [one for one in shares if one.share >= LEAST_SITE]


def finding_sites(shares: Sequence[Share]) -> list[Any]:
    """The sites of a finding for a structured report. Without any it is the brain."""
    return [finding_site(one) for one in sites(shares)] or [finding_site(None)]


def finding_site(share: Share | None) -> Any:
    """A structure as site of a finding in a structured report. None is the brain."""
    if share is None:
        return highdicom.sr.FindingSite(anatomic_location=codes.SCT.Brain)
    return highdicom.sr.FindingSite(anatomic_location=LOCATIONS[share.structure], laterality=LATERALITY.get(share.side))


def anatomic_regions(shares: Sequence[Share]) -> list[Dataset]:
    """The sites as items of a segment's Anatomic Region Sequence, with their side. Without any it is the brain."""
    if not sites(shares):
        return [highdicom.sr.CodedConcept.from_code(codes.SCT.Brain)]
    regions = []
    for share in sites(shares):
        region = highdicom.sr.CodedConcept.from_code(LOCATIONS[share.structure])
        if share.side in LATERALITY:
            region.AnatomicRegionModifierSequence = [highdicom.sr.CodedConcept.from_code(LATERALITY[share.side])]
        regions.append(region)
    return regions
