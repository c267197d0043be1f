"""SHA256SUMS: what coreutils reads, and what tells a changed bundle from the packaged one."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from scripts.common.checksums import find_differences, read_checksums, verify_checksums, write_checksums
from scripts.common.errors import PhanesInputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"a.txt": "one", "scripts/b.py": "two", "models/m.pt": "three"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for passing in ("scripts/__pycache__/b.pyc", "scripts/.hidden", "scripts/b.py~"):
        (tmp_path / passing).parent.mkdir(exist_ok=True)
        (tmp_path / passing).write_text("passing")
    write_checksums(tmp_path)
    return tmp_path


def test_the_file_is_what_sha256sum_reads(folder: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["a.txt: OK", "models/m.pt: OK", "scripts/b.py: OK"]


def test_sums_are_read_back(folder: Path) -> None:
    assert read_checksums(folder) == {
        name: hashlib.sha256(text).hexdigest()
        for name, text in (("a.txt", b"one"), ("models/m.pt", b"three"), ("scripts/b.py", b"two"))
    }
    assert verify_checksums(folder, within=["scripts"]) == 3


def test_changed_missing_and_added_files_are_named(folder: Path) -> None:
    (folder / "a.txt").write_text("One")
    (folder / "models/m.pt").unlink()
    (folder / "scripts/torch.py").write_text("")
    (folder / "models/mine.pt").write_text("")
    assert find_differences(folder) == ["a.txt: changed", "models/m.pt: missing"]
    everything = ["a.txt: changed", "models/m.pt: missing", "scripts/torch.py: not listed"]
    assert find_differences(folder, within=["scripts"]) == everything
    with pytest.raises(PhanesInputError, match=r"not as it was packaged \(a.txt: changed, models/m.pt: missing\)"):
        verify_checksums(folder)


def test_a_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"{n}.txt").write_text("")
    write_checksums(tmp_path)
    for n in range(8):
        (tmp_path / f"{n}.txt").write_text("x")
    with pytest.raises(PhanesInputError, match=r"4.txt: changed and 3 more\)"):
        verify_checksums(tmp_path)


@pytest.mark.parametrize(
    "line", ["no sum", "0" * 64 + "  ../outside", "0" * 64 + "  /etc/passwd", "0" * 63 + "  a.txt"]
)
def test_a_damaged_or_hostile_list_is_refused(folder: Path, line: str) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(PhanesInputError, match="damaged at line 4"):
        verify_checksums(folder)


def test_no_list_is_no_silent_success(tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="SHA256SUMS' cannot be read"):
        verify_checksums(tmp_path)
