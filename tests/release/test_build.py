"""`python -m scripts package`: whole, clean, complete, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import scripts
from scripts.__main__ import main
from scripts.common.checksums import verify_checksums
from scripts.common.errors import PhanesInputError
from scripts.release.build import NAME, build
from tests.conftest import BUNDLE, REPOSITORY


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout of its own, littered as a used one is."""
    root = tmp_path / "checkout"
    shutil.copytree(BUNDLE / "configs", root / "bundle" / "configs")
    shutil.copytree(REPOSITORY / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "requirements.txt", root)
    (root / "bundle" / "scripts").symlink_to("../scripts")
    for name in ("LICENSE", "docs/README.md", "flare/meta.json", "models/calibration.json", "models/model.pt"):
        (root / "bundle" / name).parent.mkdir(exist_ok=True)
        (root / "bundle" / name).write_text(name)
    for litter in ("scripts/__pycache__/cli.cpython-311.pyc", "scripts/.cli.py.swp", "bundle/eval/report.html",
                   "bundle/models/model.ts", "bundle/docs/README.md~", "bundle/.DS_Store"):  # fmt: skip
        (root / litter).parent.mkdir(exist_ok=True)
        (root / litter).write_text("litter")
    return root


def test_the_package_is_whole_and_holds_nothing_else(packaged: Path) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no git checkout to compare with")
    files = {path.relative_to(packaged).as_posix() for path in packaged.rglob("*") if path.is_file()}
    tracked = subprocess.run(
        ["git", "ls-files", "bundle", "scripts", "requirements.txt"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    expected = {name.removeprefix("bundle/") for name in tracked if "/models/baselines/" not in name} - {"scripts"}
    untracked = {name for name in files - expected if name.startswith("scripts/")}  # of a change not committed yet
    assert files - untracked == expected | {"SHA256SUMS", "sbom.cdx.json"}
    assert all(name.endswith((".py", ".j2")) for name in untracked)
    assert not [path for path in packaged.rglob("*") if path.is_symlink()]


def test_litter_stays_out(checkout: Path, tmp_path: Path) -> None:
    folder, archive, _ = build(checkout / "bundle", tmp_path / "dist")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"models/model.pt", "scripts/common/cli.py", "requirements.txt", "docs/README.md"} <= names
    assert not [
        name for name in names if any(word in name for word in ("pycache", ".swp", "eval/", ".ts", "~", "DS_S"))
    ]
    assert {info.filename for info in zipfile.ZipFile(archive).infolist()} == {f"{NAME}/{name}" for name in names}


def test_the_same_input_gives_the_same_bytes_whenever_and_wherever(checkout: Path, tmp_path: Path) -> None:
    _, first, _ = build(checkout / "bundle", tmp_path / "one")
    other = tmp_path / "other"
    shutil.copytree(checkout, other, symlinks=True)
    late = time.time() + 86400
    for path in sorted(other.rglob("*"), reverse=True):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o755)
            path.touch()
            os.utime(path, (late, late))
    _, second, _ = build(other / "bundle", tmp_path / "two")
    assert digest(first) == digest(second)
    (other / "bundle" / "docs" / "README.md").write_text("a change")
    _, third, _ = build(other / "bundle", tmp_path / "two")
    assert digest(third) != digest(first)


def test_the_zip_is_the_folder(dist: Path, packaged: Path, tmp_path: Path) -> None:
    (archive,) = dist.glob("*.zip")
    version = json.loads((packaged / "configs/metadata.json").read_text())["version"]
    assert archive.name == f"{NAME}_v{version}.zip"  # the name under which monai.bundle.download looks for it
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        opened.extractall(tmp_path)
    assert verify_checksums(tmp_path / NAME, within=["configs", "models", "scripts"]) > 50
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, capture_output=True, text=True)
    assert done.stdout.split() == [f"{archive.name}:", "OK"]


def test_a_new_package_replaces_the_old_one_whole(checkout: Path, tmp_path: Path) -> None:
    folder, _, _ = build(checkout / "bundle", tmp_path / "dist")
    (folder / "left_behind.txt").write_text("")
    build(checkout / "bundle", tmp_path / "dist")
    assert not (folder / "left_behind.txt").exists()
    assert len(list((tmp_path / "dist").iterdir())) == 3


def test_mistakes_are_one_sentence_and_leave_nothing(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match=r"nowhere/LICENSE' does not exist: give the folder of a whole bundle"):
        build(tmp_path / "nowhere", tmp_path / "dist")
    (checkout / "bundle" / "models" / "model.pt").unlink()
    with pytest.raises(PhanesInputError, match=r"model.pt' does not exist"):
        build(checkout / "bundle", tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
    precious = tmp_path / "dist" / NAME
    precious.mkdir(parents=True)
    (checkout / "bundle" / "models" / "model.pt").write_text("")
    with pytest.raises(PhanesInputError, match=r"is no earlier package"):
        build(checkout / "bundle", tmp_path / "dist")
    (checkout / "requirements.txt").write_text("torch>=2.6\n")
    precious.rmdir()
    with pytest.raises(PhanesInputError, match=r"'torch>=2.6' in '.*requirements.txt' is no pin"):
        build(checkout / "bundle", tmp_path / "dist")
    assert not list((tmp_path / "dist").iterdir())


def test_the_verb_prints_what_it_wrote(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["scripts", "package", "--out", str(tmp_path / "dist"), "--bundle_root"]
    monkeypatch.setattr(sys, "argv", [*command, str(checkout / "bundle")])
    main()
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed] == [NAME, f"{NAME}_v{scripts.__version__}.zip", "SHA256SUMS"]
    assert all(path.exists() for path in printed)
    monkeypatch.setattr(sys, "argv", [*command, "nowhere"])
    with pytest.raises(SystemExit, match=r"^Error: 'nowhere/LICENSE' does not exist"):
        main()
