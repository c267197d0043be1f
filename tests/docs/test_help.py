"""`python -m scripts --help` and each verb's help are short, complete, and say the same names as the code."""

from __future__ import annotations

import inspect
import re

import fire
import pytest

from scripts.__main__ import Commands

VERBS = [name for name in dir(Commands) if not name.startswith("_")]


def help_of(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(fire.core.FireExit) as ended:
        fire.Fire(Commands(), command=[*words, "--help"], name="python -m scripts")
    assert ended.value.code in (0, 2)  # 2: Fire takes --help for one of the verb's own options first
    printed = capsys.readouterr()
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.out + printed.err)


def test_the_list_of_verbs_is_complete_and_fits_on_a_screen(capsys: pytest.CaptureFixture) -> None:
    text = help_of(capsys)
    for verb in VERBS:
        assert re.search(rf"^\s+{verb}\n\s+\S.*[.)]$", text, flags=re.MULTILINE), f"{verb} has no line of its own"
    assert len(text.splitlines()) <= 73


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_explains_every_option_in_few_words(verb: str, capsys: pytest.CaptureFixture) -> None:
    function = getattr(Commands(), verb)
    documented = inspect.getdoc(function) or ""
    summary = documented.splitlines()[0]
    assert summary.endswith((".", ")"))
    assert len(summary) <= 120
    text = help_of(capsys, verb)
    for name, parameter in inspect.signature(function).parameters.items():
        assert re.search(rf"^ +{name}: \S", documented, flags=re.MULTILINE), f"{verb}: {name} is not explained"
        assert parameter.kind is parameter.VAR_KEYWORD or name.upper() in text.upper()
    assert len(text.splitlines()) < 60


def test_one_thing_has_one_name_in_all_verbs() -> None:
    names = {name for verb in VERBS for name in inspect.signature(getattr(Commands(), verb)).parameters}
    others = {"output", "outdir", "out_dir", "bundle", "weights", "root", "data_dir", "input_dir", "cuda", "gpu"}
    assert not names & others
