"""The demo's input is the same on every machine and its lesion is where and what it says."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import f1_score

from scripts.__main__ import Commands, main
from scripts.common.errors import PhanesInputError
from scripts.release import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    Commands().demo_input(str(out))
    return out


def array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(float)


def test_healthy_head_is_the_template(folder: Path) -> None:
    template = load_mni152_template(resolution=1)
    image = nib.load(folder / "input/healthy.nii.gz")
    np.testing.assert_allclose(array(folder / "input/healthy.nii.gz") / 255, template.get_fdata(), atol=0.003)
    np.testing.assert_array_equal(image.affine, template.affine)
    assert sorted(path.name for path in (folder / "input").iterdir()) == ["healthy.nii.gz", "stroke.nii.gz"]


def test_stroke_differs_only_around_the_true_lesion_and_is_darker_and_textured(folder: Path) -> None:
    healthy, stroke = array(folder / "input/healthy.nii.gz"), array(folder / "input/stroke.nii.gz")
    truth = array(folder / "stroke_truth.nii.gz") > 0
    changed = np.abs(stroke - healthy) > 1
    assert distance_transform_edt(~truth)[changed].max() < 5  # mm; the edge is soft
    assert changed[truth].mean() > 0.9
    assert stroke[truth].mean() < 0.65 * healthy[truth].mean()
    assert stroke[truth].std() > 5
    assert 5000 < truth.sum() < 20000  # mm3
    assert not truth[..., 95].any()  # not at the paper's level


def test_painting_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    volume, affine = rng.random((60, 60, 60)), np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-30, -90, -60]
    first, second = (demo.paint_stroke(volume, affine) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1].any()


def test_dice_is_the_f1_score_of_the_voxels() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 500)) > 0.6
    assert demo.dice(a, b) == pytest.approx(f1_score(a, b))
    assert demo.dice(np.zeros(3), np.zeros(3)) == 1.0


def test_summary_prints_scores_dice_and_paths(folder: Path, capsys: pytest.CaptureFixture) -> None:
    results = folder / "results"
    truth = nib.load(folder / "stroke_truth.nii.gz")
    for case, label in (("healthy", np.zeros(truth.shape, np.uint8)), ("stroke", np.asarray(truth.dataobj))):
        (results / case).mkdir(parents=True)
        nib.save(nib.Nifti1Image(label, truth.affine), results / case / f"{case}_label.nii.gz")
    with (results / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", "findings", "anomaly_score", "volume_mm3"])
        writer.writeheader()
        writer.writerow({"case": "healthy", "findings": "0", "anomaly_score": "0.001", "volume_mm3": "0"})
        writer.writerow({"case": "stroke", "findings": "1", "anomaly_score": "0.012", "volume_mm3": "900"})
    Commands().demo_summary(str(folder))
    printed = capsys.readouterr().out
    for text in ("1.00", "900", "0.012"):
        assert text in printed
    assert str((results / "report.html").resolve()) in printed


def test_summary_before_the_demo_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhanesInputError, match="run the demo first"):
        demo.print_demo_summary(tmp_path)
    monkeypatch.setattr("sys.argv", ["scripts", "demo_summary", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^Error: .* run the demo first"):
        main()
