"""Every command of the docs is executed by a test: `make test-integration-docs` runs it, or another test is named."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase

import pytest
import yaml

from tests.docs.execution import ELSEWHERE, Elsewhere, all_commands, to_run
from tests.docs.pages import REPOSITORY


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: f"{entry.page} {entry.command}"[:60])
def test_what_is_not_run_names_a_test_that_is_there(entry: Elsewhere) -> None:
    path, _, name = entry.test.partition("::")
    assert (REPOSITORY / path).is_file()
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name in functions if name else any(one.startswith("test_") for one in functions)


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: f"{entry.page} {entry.command}"[:60])
def test_no_entry_has_outlived_its_command(entry: Elsewhere) -> None:
    lines = {(command.page, " ".join(command.words)) for command in all_commands()}
    assert any(fnmatchcase(page, entry.page) and fnmatchcase(line, entry.command) for page, line in lines)


def test_most_commands_are_run_as_they_stand() -> None:
    """What is neither listed nor run cannot be: a new command is run."""
    run = [" ".join(command.words) for command in to_run()]
    assert len(run) >= 20
    for wanted in (
        "phanes DIR OUT",
        "python -m scripts prepare --heads HEADS --out DATA",
        "sha256sum --check SHA256SUMS",
    ):
        assert wanted in run


def test_hooks_are_tools_of_the_checkout() -> None:
    """`pre-commit install` is not run: the hooks it would install start tools that `make lint` installs."""
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    wanted = (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8")
    for hook in hooks:
        program, *words = hook["entry"].removeprefix(".venv/bin/").split()
        assert program == "python" or f"\n{program}==" in f"\n{wanted}"
        assert program != "python" or words[:2] == ["-m", "pytest"]
