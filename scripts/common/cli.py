"""Mistakes on the command line end with one sentence and a non-zero exit status, without a traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, NoReturn

from monai.bundle import ConfigParser

from .errors import PhanesInputError
from .safe_loading import REFUSED

GONE = {
    "slab_mm": "the whole brain is analysed (slices: brain); leave it out.",
    "align": "every volume is registered, a single slice is placed; leave it out.",
}
# Options of `monai.bundle run` itself.
RUN_OPTIONS = frozenset(
    {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"}
)


def started_by_monai_bundle() -> bool:
    """True inside `python -m monai.bundle ...` (also under torchrun)."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def fail(message: str) -> NoReturn:
    """End the program: the sentence on stderr, exit status 1. A Python session gets `PhanesInputError` instead."""
    if started_by_monai_bundle():
        raise SystemExit(f"Error: {message}")
    raise PhanesInputError(message)


def one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`: a mistake of the user is one sentence, however deep MONAI has wrapped it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PhanesInputError):
            print(f"Error: {cause}", file=sys.stderr)
            return
        if isinstance(cause, UnpicklingError):
            print(f"Error: {REFUSED}", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)


def check_overrides(argv: list[str] | None = None) -> None:
    """Refuse `--name value` overrides that no config file knows, None, and words for truth values.

    MONAI itself accepts unknown names and such words in silence, and ignores None.

    Args:
        argv: the command line after the program's name. By default it is this process's, if it is MONAI's bundle
            command; otherwise nothing is checked.
    """
    if argv is None:
        argv = sys.argv[1:] if started_by_monai_bundle() else []
        if argv:
            sys.excepthook = one_sentence
    flags: dict[str, str] = {}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value or following
    if "config_file" not in flags:
        return
    files = [f.strip(" '\"") for f in flags["config_file"].strip("[]()").split(",")]
    config = ConfigParser.load_config_files(files)
    known, switched = set(config) | RUN_OPTIONS, _switched(config)
    for name, value in flags.items():
        root = name.split("::")[0].split("#")[0]
        if root in GONE:
            fail(f"--{name} is gone: {GONE[root]}")
        if root not in known:
            close = difflib.get_close_matches(root, [k for k in known if not k.startswith("_")], n=1)
            hint = f"did you mean --{close[0]}?" if close else f"the options are the ids in {', '.join(files)}."
            fail(f"Unknown option --{name}: {hint}")
        if value == "None":
            fail(
                f"--{name} None would have no effect: give --{name}::_disabled_ True, or null in a config of your own."
            )
        if value in ("true", "false", "yes", "no") and name not in switched:
            fail(f"--{name} is '{value}', which Python takes for true: write True or False.")


def _switched(config: Mapping[str, Any]) -> set[str]:
    """Options that the config's component `switches` turns from words into truth values."""
    kinds = [
        v for v in config.values() if isinstance(v, dict) and v.get("_target_") == "scripts.common.options.switches"
    ]
    return {str(value).removeprefix("@") for kind in kinds for name, value in kind.items() if name[0] != "_"}
