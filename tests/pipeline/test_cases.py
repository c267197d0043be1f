"""Finding cases: every accepted kind, at any depth, under a name of its own; and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from scripts.common.errors import PhanesInputError
from scripts.pipeline.cases import find_cases, slice_files


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_finds_every_kind_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii")
    touch(tmp_path / "deep/er/b.nii.gz")
    touch(tmp_path / "deep/c.PNG")
    touch(tmp_path / "series/1.dcm")
    touch(tmp_path / "series/2.dcm")
    cases = {case["case"]: case["image"] for case in find_cases(tmp_path)}
    assert set(cases) == {"a", "b", "c", "series"}
    assert cases["series"] == str(tmp_path / "series")


def test_finds_dicom_files_without_suffix_by_their_preamble(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "IM0001").write_bytes(Path(str(get_testdata_file("MR_small.dcm"))).read_bytes())
    (folder / "README").write_text("no DICOM")
    assert [case["case"] for case in find_cases(tmp_path)] == ["series"]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.png", "x.dcm", "x.NII.GZ"])
def test_a_single_file_is_one_case(tmp_path: Path, name: str) -> None:
    path = touch(tmp_path / name)
    assert find_cases(path) == [{"image": str(path), "case": "x"}]


def test_passes_over_hidden_and_other_files(tmp_path: Path) -> None:
    touch(tmp_path / ".hidden/a.nii")
    touch(tmp_path / "._b.nii.gz")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "c.nii")
    touch(tmp_path / "unpacked.nii.gz" / "d.nii")
    assert [case["case"] for case in find_cases(tmp_path)] == ["c", "d"]


def test_what_only_looks_like_an_image_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "link.nii").symlink_to("nowhere.nii")
    assert [Path(case["image"]).name for case in find_cases(tmp_path)] == ["folder.nii.gz", "link.nii"]


def test_earlier_results_are_no_cases(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii")
    touch(tmp_path / "results" / "a" / "a_label.nii.gz")
    (tmp_path / "results" / ".phanes").mkdir()
    assert [case["case"] for case in find_cases(tmp_path)] == ["a"]


def test_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/a.nii")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data")
    assert find_cases(tmp_path / "data") == [{"image": str(tmp_path / "data/linked/a.nii"), "case": "a"}]


def test_clashing_names_become_unique_even_without_regard_to_capitals(tmp_path: Path) -> None:
    for name in ("s1/t1.nii.gz", "s2/t1.nii.gz", "s2/t1.png", "S3/T1.nii", "other.nii"):
        touch(tmp_path / name)
    names = [case["case"] for case in find_cases(tmp_path)]
    assert len({name.casefold() for name in names}) == 5
    assert "other" in names
    assert any("s1" in name for name in names)


def test_order_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("b.nii", "a.nii", "c/a2.nii"):
        touch(tmp_path / name)
    assert [case["case"] for case in find_cases(tmp_path)] == ["a", "b", "a2"]


@pytest.mark.parametrize("where", ["missing", "", "  "])
def test_a_missing_folder_is_said_in_one_sentence(tmp_path: Path, where: str) -> None:
    with pytest.raises(PhanesInputError, match="does not exist: give a folder or a file"):
        find_cases(tmp_path / where if where == "missing" else where)


def test_a_folder_without_images_is_said_in_one_sentence(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(PhanesInputError, match="No images found in"):
        find_cases(tmp_path)
    with pytest.raises(PhanesInputError, match="No images found"):
        find_cases(tmp_path / "a.txt")


def test_slice_files_are_sorted_and_named_by_subject(tmp_path: Path) -> None:
    for name in ("train/B.png", "train/A.png", "val/C.png"):
        touch(tmp_path / name)
    assert slice_files(str(tmp_path), "train") == [
        {"image": str(tmp_path / "train/A.png"), "subject": "A"},
        {"image": str(tmp_path / "train/B.png"), "subject": "B"},
    ]
    with pytest.raises(PhanesInputError, match="No slices"):
        slice_files(str(tmp_path), "test")


@pytest.mark.real_data
def test_training_splits_are_disjoint(data_root: Path) -> None:
    splits = [{f["subject"] for f in slice_files(data_root / "ixi_midaxial", s)} for s in ("train", "val", "test")]
    assert [len(split) for split in splits] == [380, 60, 60]
    assert len(set.union(*splits)) == 500
