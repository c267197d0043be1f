"""A mistyped option is one sentence and exit status 1, not silence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.common.cli import check_overrides, fail
from scripts.common.errors import PhanesInputError
from tests.conftest import BUNDLE

CONFIG = str(BUNDLE / "configs" / "inference.json")
TRAIN = str(BUNDLE / "configs" / "train.json")


def test_known_options_pass() -> None:
    check_overrides(["run", "inference", "--config_file", CONFIG, "--dataset_dir", "x", "--num-workers=1"])
    check_overrides(["run", "--config_file", f"['{CONFIG}','{TRAIN}']", "--max_epochs", "3", "--run_id=inference"])
    check_overrides(["run", "--config_file", CONFIG, "--inferer#amp", "True", "--dataloader::num_workers", "1"])
    check_overrides([])


def test_misspelt_options_are_refused_with_a_suggestion() -> None:
    with pytest.raises(PhanesInputError, match=r"Unknown option --dataset_dri: did you mean --dataset_dir\?"):
        check_overrides(["run", "--config_file", CONFIG, "--dataset_dri", "x"])
    with pytest.raises(PhanesInputError, match=r"Unknown option --qqq: the options are the ids in .*inference.json"):
        check_overrides(["run", f"--config_file={CONFIG}", "--qqq=1"])


def test_a_word_for_a_truth_value_is_refused_where_it_would_be_taken_for_true() -> None:
    check_overrides(["run", "--config_file", CONFIG, "--strict", "false", "--save_mask=no"])
    check_overrides(["run", "--config_file", CONFIG, "--network_def::mask::percentile", "False"])
    with pytest.raises(PhanesInputError, match=r"--network_def::mask::percentile is 'false'.*: write True or False"):
        check_overrides(["run", "--config_file", CONFIG, "--network_def::mask::percentile", "false"])
    with pytest.raises(PhanesInputError, match="--network_def::mask None would have no effect"):
        check_overrides(["run", "--config_file", CONFIG, "--network_def::mask", "None"])
    with pytest.raises(PhanesInputError, match="--resume is 'false'"):
        check_overrides(["run", "--config_file", TRAIN, "--resume=false"])


def test_options_that_are_gone_say_what_took_their_place() -> None:
    with pytest.raises(PhanesInputError, match=r"--slab_mm is gone: the whole brain is analysed .*; leave it out"):
        check_overrides(["run", "--config_file", CONFIG, "--slab-mm", "10"])


def test_nothing_is_checked_in_other_programs() -> None:
    check_overrides()


def test_monais_command_line_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhanesInputError):
        fail("x")
    main = str(Path("/any/monai/bundle/__main__.py"))
    monkeypatch.setattr(sys, "argv", [main, "run", "--config_file", CONFIG, "--outputdir", "x"])
    with pytest.raises(SystemExit, match="Error: Unknown option --outputdir"):
        check_overrides()
