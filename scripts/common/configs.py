"""Parts of the inference configs, built for other configs: training and inference share one definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

FILES = ("inference.json", "paper.json")  # the one level that `train.json` trains for


def from_inference(
    part: str | Sequence[str],
    bundle_root: str,
    entries: Mapping[str, Any] | None = None,
    files: Sequence[str] = FILES,
    **changes: Any,
) -> Any:
    """Build a part of inference, such as the network or the preprocessing, with changes.

    Overlays and the command line change it as they change the part itself in inference,
    `"network_def::mask": {"_target_": ...}` or `--network_def::mask::percentile 98`.

    Args:
        part: its id in the configs; several make a dictionary of parts that share what they refer to, without changes.
        bundle_root: the bundle's folder.
        entries: values of other entries that the part refers to, by id.
        files: the configs; later ones lie over earlier ones. The default is the paper's slice.
        changes: arguments of the part. Each is another value or component, or a dictionary of changes to the one
            that is there.
    """
    parser = ConfigParser()
    parser.read_config([str(Path(bundle_root) / "configs" / name) for name in files])
    parser.update({"bundle_root": str(bundle_root), **(entries or {})})
    if not isinstance(part, str):
        return {name: parser.get_parsed_content(name) for name in part}
    _change(parser[part], changes)
    return parser.get_parsed_content(part)


def _change(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), dict):
            _change(config[name], value)
        else:
            config[name] = value
