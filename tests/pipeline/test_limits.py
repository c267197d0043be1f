"""What a header may claim: real heads of every kind pass, the impossible does not."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from scripts.common.errors import PhanesInputError
from scripts.pipeline.limits import SURPLUS, check_position, check_shape, check_size, read_gzip


@pytest.mark.parametrize("shape", [(1, 1, 1), (197, 233), (256, 256, 190), (512, 512, 500), (4096, 4096, 1)])
def test_shapes_of_scans_pass(shape: tuple) -> None:
    check_shape(shape)


@pytest.mark.parametrize("shape", [(4097, 10), (600, 600, 600), (4096, 4096, 4096), (2**31, 2**31, 2**31)])
def test_larger_ones_do_not(shape: tuple) -> None:
    with pytest.raises(PhanesInputError, match="claims"):
        check_shape(shape)


@pytest.mark.parametrize(
    "affine",
    [np.diag([0.25, 0.25, 0.25, 1]), np.diag([-0.9, 0.9, 6.0, 1]),
     [[0, 0, 3.0, 5], [0.9, 0.05, 0, 6], [-0.05, 0.9, 0, 7], [0, 0, 0, 1]]],
)  # fmt: skip
def test_positions_of_scans_pass(affine: object) -> None:
    check_position(np.asarray(affine, dtype=float), (256, 256, 40))


@pytest.mark.parametrize(
    ("affine", "sentence"),
    [(np.diag([1.0, 1, 0, 1]), "without a usable position"), (np.diag([1.0, np.nan, 1, 1]), "without a usable"),
     ([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]], "without a usable position"),
     (np.diag([0.01, 1, 1, 1]), "which no scan of a head has"), (np.diag([1, 60.0, 1, 1]), "which no scan of a head"),
     (np.diag([30.0, 1, 1, 1]), "larger than a person")],
)  # fmt: skip
def test_impossible_ones_do_not(affine: object, sentence: str) -> None:
    with pytest.raises(PhanesInputError, match=sentence):
        check_position(np.asarray(affine, dtype=float), (256, 256, 40))


def test_a_file_must_be_able_to_hold_what_it_claims(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(b"\0" * 1000)
    (tmp_path / "x.nii.gz").write_bytes(b"\0" * 1000)
    check_size(tmp_path / "x.nii", 1000)
    check_size(tmp_path / "x.nii.gz", 1_032_000)
    for name, claimed in (("x.nii", 1001), ("x.nii.gz", 1_032_001)):
        with pytest.raises(PhanesInputError, match="has 1000 bytes, too few for the image"):
            check_size(tmp_path / name, claimed)


def test_zeros_cannot_be_packed_more_tightly_than_the_limit_says(tmp_path: Path) -> None:
    packed = gzip.compress(b"\0" * 50_000_000, 9)
    (tmp_path / "x.gz").write_bytes(packed)
    check_size(tmp_path / "x.gz", 50_000_000)


def test_only_so_much_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0" * (SURPLUS + 2000), 1))
    assert len(read_gzip(tmp_path / "x.gz", 2000)) == SURPLUS + 2000
    with pytest.raises(PhanesInputError, match="far more data than its header describes"):
        read_gzip(tmp_path / "x.gz", 1999)
