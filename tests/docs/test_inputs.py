"""The table of kinds of input in reliability.md: each number is that of the tests, all of which pass."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY
from tests.dicom.test_kinds import ENHANCED, LOST_IDENTIFIERS, SEVERAL_A_POSITION, UNCLEAR
from tests.dicom.test_series_names import AGENTS, NAMES
from tests.pipeline.bad_inputs import KINDS, ODD_NAMES
from tests.pipeline.test_formats import FORMATS, PICTURES
from tests.space.test_intensities import COUNTED_FROM, PADDINGS

TRIED = {
    "names of series, in many languages": sum(map(len, NAMES.values())) + len(AGENTS),
    "studies in which it stays unclear which series is wanted": len(UNCLEAR),
    "lost or repeated DICOM identifiers": len(LOST_IDENTIFIERS),
    "several images at one position": len(SEVERAL_A_POSITION),
    "enhanced objects: in parts, with phases, without spacing": len(ENHANCED),
    "formats and units": len(FORMATS),
    "slices kept as pictures: tinted, with caption or transparency": len(PICTURES),
    "padding values, and counting from elsewhere": len(PADDINGS) + len(COUNTED_FROM),
    "names of files": len(ODD_NAMES),
    "broken, hostile or unfit files": len(KINDS),
}


def test_the_table_says_how_many_were_tried() -> None:
    page = (REPOSITORY / "bundle" / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|$", page, flags=re.MULTILINE))
    assert rows == {kind: str(number) for kind, number in TRIED.items()}
