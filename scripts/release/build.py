"""`python -m scripts package`: all that a user of the bundle needs, as a folder without links and as a zip."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from ..common.checksums import NAME as CHECKSUMS
from ..common.checksums import is_passing, write_checksums
from ..common.errors import PhanesInputError
from .archive import write_zip
from .sbom import write_sbom
from .torchscript import export_torchscript

# MONAI Label guesses a model's task from words in this name. Its default, segmentation, is right: the words detection,
# classification, deepedit and deepgrow must not stand in it.
NAME = "phanes_t1w_brain_anomaly"
PARTS = ("LICENSE", "configs", "docs", "flare", "models", "scripts")


def package(out: str = "dist", bundle_root: str = "bundle", torchscript: bool = False) -> None:
    """Write the self-contained bundle, its zip, checksums and bill of materials.

    Args:
        out: folder for phanes_t1w_brain_anomaly/, its zip, and the zip's SHA256SUMS. Earlier ones are replaced.
        bundle_root: the bundle's folder in a checkout.
        torchscript: also export models/model.ts, for hosts that want TorchScript.
    """
    for path in build(bundle_root, out, torchscript):
        print(path)


def build(bundle: str | Path, out: str | Path, torchscript: bool = False) -> tuple[Path, Path, Path]:
    """Build the package, see `package`.

    Returns:
        The folder, the zip, and the checksums of the zip.

    Raises:
        PhanesInputError: the bundle is incomplete, or `out` holds something else under the package's name.
    """
    source, target = Path(bundle), Path(out)
    requirements = (source / "scripts").resolve().parent / "requirements.txt"
    for path in (*(source / part for part in PARTS), source / "models/model.pt", requirements):
        if not path.exists():
            raise PhanesInputError(f"'{path}' does not exist: give the folder of a whole bundle with --bundle_root.")
    final = target / NAME
    if final.exists() and not (final / CHECKSUMS).is_file():
        raise PhanesInputError(f"'{final}' is no earlier package: move it away, or choose another folder with --out.")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".package-") as scratch:
        root = Path(scratch) / NAME
        root.mkdir()
        for part in PARTS:
            _copy(source / part, root / part)
        shutil.copyfile(requirements, root / "requirements.txt")
        shutil.rmtree(root / "models/baselines", ignore_errors=True)  # compared systems; nobody analyses scans by them
        (root / "models/model.ts").unlink(missing_ok=True)  # one left behind in the checkout may be of other weights
        if torchscript:
            export_torchscript(root)
        metadata = json.loads((root / "configs/metadata.json").read_text(encoding="utf-8"))
        write_sbom(root, NAME, metadata)
        write_checksums(root)
        archive = write_zip(root, Path(scratch) / f"{NAME}_v{metadata['version']}.zip")
        if final.exists():
            shutil.rmtree(final)
        root.replace(final)
        archive = archive.replace(target / archive.name)
    return final, archive, write_checksums(target, [archive.name])


def _copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without its passing files. Links are followed."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and not is_passing(PurePosixPath(relative.as_posix())):
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / relative)
