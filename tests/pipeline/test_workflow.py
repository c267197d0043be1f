"""The bundle's workflow on cases from elsewhere: what the caller gives is not the user's to override."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.common.errors import PhanesInputError
from scripts.pipeline.workflow import analyse_cases
from tests.conftest import BUNDLE


def test_what_the_caller_gives_cannot_be_overridden_in_silence(tmp_path: Path) -> None:
    overrides = {"slab_mm": 10, "dicom_output": False, "cases": []}
    with pytest.raises(PhanesInputError, match=r"^cases, dicom_output cannot be changed here"):
        analyse_cases(BUNDLE, [], tmp_path / "out", overrides)
    assert not (tmp_path / "out").exists()
