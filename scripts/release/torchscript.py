"""models/model.ts from models/model.pt: MONAI's own export, made to give the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from .archive import EPOCH

# Source lines with this machine's paths, and a number derived from them. The program runs without them.
_LEFT_OUT = (".debug_pkl", "/.data/serialization_id")


def export_torchscript(root: str | Path) -> Path:
    """Write `models/model.ts`, which carries inference.json and metadata.json, into a whole bundle.

    It runs in a process of its own, with fixed hashes: they decide the order of a module's constants.

    Args:
        root: of the bundle.

    Raises:
        RuntimeError: the export failed. The message ends with its output.
    """
    root = Path(root).resolve()
    target = root / "models" / "model.ts"
    options = {
        "net_id": "network_def",
        "filepath": str(target),
        "ckpt_file": "models/model.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
        "bundle_root": str(root),
    }
    command = [sys.executable, "-m", "monai.bundle", "ckpt_export"]
    variables = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = subprocess.run([*command, *flags], cwd=root, env=variables, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode or not target.is_file():
        raise RuntimeError(f"The export to TorchScript failed: {done.stderr[-1000:]}")
    _keep_the_program(target)
    return target


def _keep_the_program(path: Path) -> None:
    """Rewrite the archive without its debugging information."""
    trimmed = path.with_suffix(".trimmed")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(trimmed, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            if not name.endswith(_LEFT_OUT):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3
                new.writestr(info, old.read(name))
    trimmed.replace(path)
