"""One definition for inference and training: parts of `inference.json`, which stands alone, built for other configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser


def from_inference(part: str, bundle_root: str, entries: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """Build a part of `inference.json`, such as the network or the preprocessing, with some of it changed.

    Overlays and the command line change it as they change the part itself in `inference.json`,
    `"network_def::filling": {"_target_": ...}` or `--network_def::mask::percentile 98`.

    Args:
        part: its id in `inference.json`.
        bundle_root: the bundle's folder.
        entries: other entries of `inference.json`, by id, that the part refers to: their values here.
        changes: arguments of the part: another value or component, or a dictionary of changes to the component's own.
    """
    parser = ConfigParser()
    parser.read_config(Path(bundle_root) / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle_root), **(entries or {})})
    _change(parser[part], changes)
    return parser.get_parsed_content(part)


def _change(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), dict):
            _change(config[name], value)
        else:
            config[name] = value
