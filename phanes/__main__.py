"""`phanes INPUT OUT` and `phanes demo`: the bundle's inference for people who do not know bundles."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import Any

from . import bundle

EPILOG = """\
More options (--method, --weights_file, --strict ...): bundle/docs/usage.md
Results: OUT/report.html, OUT/summary.csv, and a folder for each case.
phanes demo [OUT] analyses a head of its own, healthy and with a lesion.
Research use only; not a medical device."""


def parser() -> argparse.ArgumentParser:
    """The command line; its help fits on a screen."""
    made = argparse.ArgumentParser(
        "phanes",
        usage="phanes DIR OUT [options]",
        description="Anomaly maps of T1w brain MRI, learnt from healthy brains alone.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("input", metavar="DIR", help="folder with cases, or one file: NIfTI, DICOM, MGZ, NRRD, PNG, ...")
    made.add_argument("out", metavar="OUT", nargs="?", help="folder for the results")
    made.add_argument("--slices", metavar="S", help="brain, mid (MNI z = +23 mm), or a list: [90,95]")
    made.add_argument("--device", metavar="D", help="cpu, cuda or mps")
    made.add_argument("--label_threshold", metavar="T", help="threshold of the findings, if not the calibrated one")
    made.add_argument("--dicom_output", action="store_const", const="true", help="also write DICOM objects")
    made.add_argument("--anonymize", action="store_const", const="true", help="no names and paths in the results")
    made.add_argument("--version", action="store_true", help="print the version")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake is one sentence and exit status 1."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        bundle()
        from scripts import __version__

        print(__version__)
        return
    given, others = parser().parse_known_args(words)
    demo = given.input == "demo"
    if given.out is None and not demo:
        parser().error("OUT is missing: give a folder for the results.")
    named = {name: value for name, value in vars(given).items() if name not in ("input", "out", "version")}
    options = {name: _value(value) for name, value in named.items() if value is not None} | _options(others)
    if "config_file" in options:
        parser().error("--config_file is not understood: it needs python -m monai.bundle run (docs/usage.md).")
    _run(given.input, given.out or "demo", demo, options)


def _run(source: str, out: str, demo: bool, options: dict[str, Any]) -> None:
    root = bundle()
    from scripts.common.startup import import_monai_quickly

    import_monai_quickly()
    from scripts.common.cli import one_sentence
    from scripts.pipeline.workflow import analyse_folder

    sys.excepthook = one_sentence
    if demo:
        from scripts.release.demo import print_demo_summary, write_demo_input

        write_demo_input(out)
        analyse_folder(root, f"{out}/input", f"{out}/results", options)
        print_demo_summary(out)
    else:
        analyse_folder(root, source, out, options)


def _options(words: Sequence[str]) -> dict[str, Any]:
    """`--name value` and `--name=value`, values as Python reads them, else as text."""
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or not (equals or rest):
            missing = (
                "needs a value, such as true" if name.startswith("--") else "is not understood: write --name value"
            )
            parser().error(f"'{name}' {missing}; --dicom_output and --anonymize take no value.")
        found[name[2:].replace("-", "_")] = _value(value if equals else rest.pop(0))
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
