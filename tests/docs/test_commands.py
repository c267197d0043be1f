"""Every command in README and docs is real: configs, entries, run ids, verbs, options and targets exist.

Fast ones are run; the others are what other tests run (`tests/pipeline/test_bundle_run.py`,
`tests/training/test_train_configs.py`, `tests/study/evaluation`, `tests/integrations`) with smaller settings, and are
resolved here against configs and code.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from phanes.__main__ import parser
from scripts.__main__ import Commands
from scripts.common.cli import RUN_OPTIONS, check_overrides
from tests.docs.pages import PAGES, REPOSITORY, Command, commands, name_of, prose

ALL = [command for page in PAGES for command in commands(page)]
# Programs that are not ours: only their names are looked at.
FOREIGN = {
    "apt-get", "cd", "chromium", "cp", "curl", "dcentvfy", "dciodvfy", "docker", "for", "git", "grep", "hf", "ls",
    "mkdir", "monai-deploy", "monailabel", "nvflare", "pip", "pre-commit", "pytest", "python3", "sed", "sha256sum",
    "source", "tar", "tensorboard", "ulimit", "unzip",
}  # fmt: skip
# Options in prose that belong to other programs.
FOREIGN_OPTIONS = {"nproc_per_node", "standalone", "help", "conf", "logdir", "app", "studies", "host", "source"}


def config_files(words: list[str]) -> list[str]:
    text = words[words.index("--config_file") + 1]
    return [text] if text.endswith(".json") and "[" not in text else list(ast.literal_eval(text))


def options(words: list[str]) -> list[str]:
    return [re.split(r"[=:#]", word[2:])[0] for word in words if word.startswith("--")]


def check_bundle_run(words: list[str]) -> None:
    """`run ID --config_file ... --entry value`: the files are there and know the id and every entry."""
    run_id = words[1]
    files = [str(REPOSITORY / file) for file in config_files(words)]
    text = words[words.index("--config_file") + 1]
    known = ConfigParser.load_config_files(files)
    assert run_id in known or run_id == "run", f"no run id {run_id}"
    given = [word if word != text else str(files) for word in words]
    check_overrides(given)


def check_phanes(words: list[str]) -> None:
    entries = ConfigParser.load_config_file(str(REPOSITORY / "bundle/configs/inference.json"))
    for option in options(words):
        assert option in entries, f"phanes has no option --{option}"


def check_make(words: list[str]) -> None:
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in words:
        if "=" in target:
            continue
        patterns = [re.escape(name).replace("%", ".+") for name in re.findall(r"^([\w%-]+):", text, flags=re.MULTILINE)]
        assert any(re.fullmatch(pattern, target) for pattern in patterns), f"no target {target}"


def check_verb(words: list[str]) -> None:
    if words[0].startswith("--"):
        return
    parameters = inspect.signature(getattr(Commands(), words[0])).parameters
    for option in options(words[1:]):
        assert option in parameters or option == "help", f"{words[0]} has no option --{option}"


def check_script(words: list[str]) -> None:
    assert (REPOSITORY / words[0]).is_file(), f"no file {words[0]}"


@pytest.mark.parametrize("command", ALL, ids=str)
def test_commands_are_real(command: Command) -> None:
    words = command.words
    if Path(words[0]).name == "torchrun":
        words = ["python", *words[next(i for i, word in enumerate(words) if word in ("-m", "--module")) :]]
    program = Path(words[0]).name
    if program == "make":
        check_make(words[1:])
    elif program == "phanes":
        check_phanes(words[1:])
    elif program == "python" and words[1:4] == ["-m", "monai.bundle", "run"]:
        check_bundle_run(words[3:])
    elif program == "python" and words[1:3] == ["-m", "scripts"]:
        check_verb(words[3:])
    elif program == "python" and words[1] == "-m" and words[2].startswith("tests."):
        check_script([words[2].replace(".", "/") + ".py"])
    elif program == "python" and words[1:3] == ["-m", "pytest"]:
        for path in words[3:]:
            assert (REPOSITORY / path).exists(), f"no tests in {path}"
    elif program == "python" and words[1].endswith(".py"):
        check_script(words[1:])
    elif words[0].endswith(".sh"):
        check_script(words)
    elif program == "phanes":
        parser().parse_args(words[1:])
    else:
        assert program in FOREIGN or words[1:3] in (["-m", "monailabel"], ["-m", "pip"]), f"who is {words[0]}?"


def test_there_are_commands_to_test() -> None:
    assert sum(command.words[1:4] == ["-m", "monai.bundle", "run"] for command in ALL) >= 8
    assert {command.page for command in ALL} >= {"README.md", "bundle/docs/training.md", "bundle/docs/evaluation.md"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_named_in_the_text_exist(page: Path) -> None:
    """`--name` in prose is an entry of a config, an option of a verb, or one of monai.bundle's own."""
    configs = REPOSITORY.joinpath("bundle", "configs").rglob("*.json")
    known = {key for path in configs for key in ConfigParser.load_config_file(str(path))} | RUN_OPTIONS
    for verb in (name for name in dir(Commands) if not name.startswith("_")):
        known |= set(inspect.signature(getattr(Commands(), verb)).parameters)
    named = re.findall(r"`--([A-Za-z]\w*)", prose(page))
    assert sorted(set(named) - known - FOREIGN_OPTIONS) == []
