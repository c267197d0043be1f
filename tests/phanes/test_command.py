"""`phanes INPUT OUT`: its help, its options, its mistakes; that it is the bundle's own run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import phanes
from phanes.__main__ import main, parser
from scripts.common.errors import PhanesInputError
from tests.conftest import BUNDLE, REPOSITORY


def test_the_help_fits_on_a_screen(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_nothing_heavy_is_imported_for_the_help() -> None:
    code = (
        "import sys, phanes; from phanes.__main__ import parser; parser().format_help(); "
        "sys.exit(', '.join({'numpy', 'torch', 'monai', 'fire'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_options_of_the_help_are_entries_of_the_config() -> None:
    names = {action.dest for action in parser()._actions} - {"help", "input", "out", "version"}
    from scripts.pipeline.workflow import check_options

    check_options(BUNDLE, dict.fromkeys(names, 1))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["in"], "OUT is missing"),
        (["in", "out", "--slices"], "expected one argument"),
        (["in", "out", "more"], "'more' is not understood"),
        (["in", "out", "--save_mask"], "'--save_mask' needs a value, such as true"),
        (["in", "out", "--config_file", "a.json"], "--config_file is not understood"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(words: list, sentence: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("words", [["--slice", "mid"], ["--device", "abacus"]])
def test_a_users_mistake_ends_with_one_sentence_and_status_1(words: list, png: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "phanes", str(png), str(tmp_path / "out"), *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert not (tmp_path / "out" / "summary.csv").exists()


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory, phantom: np.ndarray) -> tuple[Path, Path]:
    """A slice as NIfTI and the folder of its results, written by the command."""
    from tests.conftest import ras_of_slice, save_nifti

    folder = tmp_path_factory.mktemp("command")
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = save_nifti(folder / "in" / "head.nii", ras_of_slice(phantom).astype(np.float32), affine)
    main([str(image.parent), str(folder / "out"), "--save_picture=False", "--label_threshold", "3"])
    return image, folder / "out" / "head"


def test_the_command_passes_options_on(analysed: tuple[Path, Path]) -> None:
    assert (analysed[1] / "head_anomaly.nii.gz").is_file()
    assert not (analysed[1] / "head.png").exists()


@pytest.mark.parametrize("as_array", [False, True])
def test_analyse_returns_what_the_command_writes(analysed: tuple[Path, Path], as_array: bool) -> None:
    image, folder = analysed
    given = (np.asarray(nib.load(image).dataobj), nib.load(image).affine) if as_array else (image,)
    result = phanes.analyse(*given, label_threshold=3)
    for name in ("anomaly", "pseudo_healthy", "mask", "coarse", "label"):
        written = np.asarray(nib.load(folder / f"head_{name}.nii.gz").dataobj)
        found = getattr(result, name)
        assert found.shape == nib.load(image).shape
        np.testing.assert_array_equal(found, written, name)
    rows = (folder / "head_findings.csv").read_text().splitlines()
    assert [*result.findings[0]] == rows[0].split(",")
    assert len(result.findings) == len(rows) - 1


def test_a_bare_slice_comes_back_as_a_slice(phantom: np.ndarray) -> None:
    result = phanes.analyse(phantom[::-1].T, np.eye(4))
    assert result.anomaly.shape == phantom.T.shape
    assert result.anomaly.dtype == np.float32
    assert result.anomaly.max() > 0


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ((np.zeros((4, 4, 4)),), {}, "An array needs its affine"),
        ((np.zeros((4, 4, 4)), np.eye(3)), {}, r"shape \(3, 3\)"),
        ((np.zeros((4, 4, 4), complex), np.eye(4)), {}, "complex"),
        ((np.full((40, 40, 40), np.nan), np.eye(4)), {}, "."),
        (("nowhere.nii",), {}, "'nowhere.nii'"),
        (("nowhere.nii",), {"slice": "mid"}, "did you mean --slices"),
    ],
)
def test_what_cannot_be_analysed_is_one_sentence(given: tuple, options: dict, sentence: str) -> None:
    with pytest.raises(PhanesInputError, match=sentence):
        phanes.analyse(*given, **options)


def test_a_folder_of_two_cases_is_refused(analysed: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).symlink_to(analysed[0])
    with pytest.raises(PhanesInputError, match="holds 2 cases"):
        phanes.analyse(tmp_path)


def test_another_package_of_the_codes_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scripts", pytest)
    with pytest.raises(ImportError, match="is loaded already"):
        phanes.bundle()
