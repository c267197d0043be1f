"""One command that trains every compared system, one after the other: `python -m scripts train_baselines`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai.bundle

from ...common.errors import PhanesInputError

CONFIGS = Path("bundle/configs/baselines")

logger = logging.getLogger(__name__)


def baseline_configs(folder: str | Path = CONFIGS) -> dict[str, Path]:
    """The compared systems by name: all configs in a folder that have a `_table_row_`, in the order of these rows."""
    rows = _marked(folder, "_table_row_")
    return {file.stem: file for file in sorted(rows, key=lambda file: rows[file])}


def head_configs(folder: str | Path = CONFIGS) -> dict[str, list[str]]:
    """The systems that can be trained on whole heads: the config of each, and its overlays named in `_heads_`."""
    overlays = _marked(folder, "_heads_")
    return {file.stem: [str(file), *(str(file.with_name(name)) for name in overlays[file])] for file in overlays}


def _marked(folder: str | Path, entry: str) -> dict[Path, Any]:
    """The configs in a folder that have an entry, with that entry."""
    found = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(folder).glob("*.json"))}
    return {file: config[entry] for file, config in found.items() if entry in config}


def train_baselines(
    dataset_dir: str,
    size: str = "compact",
    systems: str | Sequence[str] | None = None,
    output_dir: str = "runs",
    trained_autoencoder: str | None = None,
    again: bool = False,
    heads: bool = False,
    max_seconds: int | None = None,
    config_dir: str = str(CONFIGS),
    **overrides: Any,
) -> None:
    """Train every system PHANES is compared with; run it from the repository's root.

    Each system gets its folder `<output_dir>/<system>` with `model.pt` and `record.json`. A system with a record of
    this size is passed over; one that was interrupted goes on where it stopped; one that fails does not stop the
    others.

    Args:
        dataset_dir: folder with train/*.png and val/*.png; with `heads`, what `prepare` wrote.
        size: paper, or compact, for a CPU (bundle/docs/evaluation.md says how long each took).
        systems: which ones; all by default.
        output_dir: parent of the systems' folders.
        trained_autoencoder: autoencoder.pt of PHANES' own first stage, or bundle/models/model.pt, of this size: RA is
            that network, and then needs no training of its own.
        again: train also what has a record.
        heads: train on the slices of whole heads those that can be.
        max_seconds: of each training that is not a fit; an hour with `heads`, else as long as its config says.
        config_dir: folder of the systems' configs.
        overrides: entries to replace in every config that has them, such as --num_workers 4.

    Raises:
        PhanesInputError: an unknown system, or after the others are done, the systems that failed.
    """
    if not Path(config_dir).is_dir():
        raise PhanesInputError(f"No configs in '{config_dir}': run this command from the repository's root.")
    configs = {name: [str(file)] for name, file in baseline_configs(config_dir).items()}
    if heads:
        configs = head_configs(config_dir)
    # From the table's end: the z-score takes seconds, so that a mistake in the data shows early.
    chosen = [systems] if isinstance(systems, str) else list(reversed(configs) if systems is None else systems)
    unknown = [name for name in chosen if name not in configs]
    if unknown:
        raise PhanesInputError(f"systems names {', '.join(unknown)}: choose among {', '.join(configs)}.")
    failed: dict[str, str] = {}
    for name in chosen:
        folder = Path(output_dir) / name
        if not again and _finished(folder, size):
            print(f"{name}: {folder / 'record.json'} is there already, passed over")
            continue
        settings: dict[str, Any] = {
            "dataset_dir": dataset_dir,
            "output_dir": str(folder),
            "size": size,
            "bundle_root": "bundle",
        }
        if name == "ra" and trained_autoencoder is not None and not heads:
            settings["trained_autoencoder"] = trained_autoencoder
        files = configs[name]
        entries = {key for file in files for key in json.loads(Path(file).read_text(encoding="utf-8"))}
        if max_seconds is not None and "max_seconds" in entries:
            settings["max_seconds"] = max_seconds
        settings.update({key: value for key, value in overrides.items() if key in entries})
        print(f"{name}: training, results in {folder}")
        try:
            monai.bundle.run(run_id="train", config_file=files, **settings)
        except (RuntimeError, ValueError, OSError, SystemExit) as error:
            logger.debug("%s failed", name, exc_info=True)
            failed[name] = _reason(error)
            print(f"{name}: failed: {failed[name]}")
    if failed:
        raise PhanesInputError(
            f"{len(failed)} of {len(chosen)} systems failed. " + " ".join(f"{n}: {why}" for n, why in failed.items())
        )


def _finished(folder: Path, size: str) -> bool:
    """Whether the folder holds the record of a run of this size, and its weights."""
    record = folder / "record.json"
    if not record.is_file() or not (folder / "model.pt").is_file():
        return False
    return json.loads(record.read_text()).get("size") == size


def _reason(error: BaseException) -> str:
    """The sentence at the bottom of MONAI's chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
