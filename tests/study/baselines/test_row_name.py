"""The row of a table says which recipe its weights come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.study.baselines.phanes import row_name


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ({}, "PHANES, paper"),
        ({"size": "paper", "feature_trunk": "vgg19"}, "PHANES, paper"),
        ({"size": "compact", "feature_trunk": "vgg19"}, "PHANES, paper, compact"),
        ({"size": "paper", "feature_trunk": "imagenet"}, "PHANES, paper, features of imagenet for VGG19's"),
        (
            {"size": "compact", "feature_trunk": "distilled"},
            "PHANES, paper, compact, features of distilled for VGG19's",
        ),
    ],
)
def test_another_size_or_trunk_than_the_papers_is_named(made: dict[str, str], name: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(json.dumps({"training": {"inpainter": made}}))
    assert row_name(tmp_path / "calibration.json") == name
    assert row_name(tmp_path / "nowhere.json") == "PHANES, paper"
