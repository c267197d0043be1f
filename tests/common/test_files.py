"""A file is written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from scripts.common.files import sha256_of_file, write_atomically


def test_atomic_write_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.csv"
    write_atomically(path, lambda p: p.write_text("old"))

    def broken(partial: Path) -> None:
        partial.write_text("half")
        raise OSError

    with pytest.raises(OSError, match=r"^$"):
        write_atomically(path, broken)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_checksum_of_a_file_of_several_blocks(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(data)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
