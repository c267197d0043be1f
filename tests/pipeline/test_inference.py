"""The main job, end to end with untrained weights: every file of the contract; bad cases spoil no good ones."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.pipeline.inference import HeadInferer, checked_cases, read_calibration, sentence_of
from scripts.pipeline.results import result_names
from tests.conftest import BUNDLE, ras_of_slice, run_inference, save_nifti, write_calibration
from tests.heads import small_template
from tests.pipeline.faults import tree

MNI = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, 23], [0, 0, 0, 1]])


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def result(folder: Path, case: str, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / case / f"{case}_{name}.nii.gz").dataobj)


@pytest.fixture(scope="module")
def run(scratch_bundle: Path, tmp_path_factory: pytest.TempPathFactory, phantom: np.ndarray) -> tuple[Path, Path, str]:
    """One run over good and bad cases: the input folder, the output folder, and how it ended."""
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    ras = ras_of_slice(phantom)
    Image.fromarray(phantom).save(source / "png.png")
    save_nifti(source / "ras.nii.gz", ras, MNI)
    save_nifti(source / "flat.nii", ras[..., 0], MNI)
    turned = np.array([[-1.0, 0, 0, 196], [0, -1, 0, 232], [0, 0, 1, 0], [0, 0, 0, 1]])
    save_nifti(source / "lps.nii.gz", np.ascontiguousarray(ras[::-1, ::-1]), MNI @ turned)
    volume, affine = small_template(3.0)
    save_nifti(source / "volume.nii.gz", volume, affine)
    (source / "broken.nii.gz").write_text("no image")
    save_nifti(source / "blank.nii.gz", np.zeros_like(ras), MNI)
    stale = out / "broken"
    stale.mkdir()
    (stale / "broken_label.nii.gz").write_text("from an earlier run")
    with pytest.raises(RuntimeError) as ended:
        run_inference(scratch_bundle, source, out, slices="mid")
    return source, out, sentence_of(ended.value)


GOOD = ("png", "ras", "flat", "lps", "volume")
SLICES = GOOD[:-1]


def test_every_good_case_has_every_file_and_nothing_else(run: tuple[Path, Path, str]) -> None:
    _, out, _ = run
    others = {"summary.csv", "report.html", "run.json", ".phanes"}
    assert {path.name for path in out.iterdir()} == {*GOOD, *others}
    for case in GOOD:
        assert {path.name for path in (out / case).iterdir()} == set(result_names(case)) - {"dicom"}


def test_bad_cases_have_a_row_and_the_run_ends_with_an_error(run: tuple[Path, Path, str]) -> None:
    _, out, ended = run
    rows = summary(out)
    assert set(rows) == {*GOOD, "broken", "blank"}
    assert rows["broken"]["status"] == rows["blank"]["status"] == "failed"
    assert "cannot be read" in rows["broken"]["error"]
    assert "is blank" in rows["blank"]["error"]
    assert all(rows[case]["status"] == "ok" and not rows[case]["error"] for case in GOOD)
    assert ended.startswith("2 of 7 cases failed")


def test_results_lie_on_the_inputs_grid(run: tuple[Path, Path, str]) -> None:
    source, out, _ = run
    for case, file in (("ras", "ras.nii.gz"), ("flat", "flat.nii"), ("lps", "lps.nii.gz"), ("volume", "volume.nii.gz")):
        original = nib.load(source / file)
        for path in (out / case).glob("*.nii.gz"):
            image = nib.load(path)
            assert image.shape == original.shape
            np.testing.assert_array_equal(image.affine, original.affine)


def test_types_and_ranges(run: tuple[Path, Path, str]) -> None:
    _, out, _ = run
    for case in GOOD:
        anomaly, label, mask = (result(out, case, name) for name in ("anomaly", "label", "mask"))
        assert anomaly.dtype == np.float32
        assert anomaly.min() >= 0
        for image in (label, mask):
            assert image.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        assert label.max() <= 20
        assert mask.any()
        np.testing.assert_array_equal(label > 0, anomaly > 0.02)


def test_the_label_is_the_findings_table(run: tuple[Path, Path, str]) -> None:
    _, out, _ = run
    for case in ("volume", "ras"):
        with (out / case / f"{case}_findings.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        label, anomaly = result(out, case, "label"), result(out, case, "anomaly")
        affine = nib.load(out / case / f"{case}_label.nii.gz").affine
        voxel = abs(np.linalg.det(affine[:3, :3]))
        assert int(summary(out)[case]["findings"]) == len(rows) > 0
        for row in rows[:3]:
            inside = label == int(row["number"])
            assert float(row["volume_mm3"]) == pytest.approx(inside.sum() * voxel, rel=1e-4)
            assert float(row["peak"]) == pytest.approx(anomaly[inside].max(), rel=1e-4)
            centre = nib.affines.apply_affine(affine, np.argwhere(inside).mean(axis=0))
            assert [float(row[f"{axis}_mm"]) for axis in "xyz"] == pytest.approx(centre, abs=0.01)
        total = float(summary(out)[case]["volume_mm3"])
        assert total == pytest.approx((label > 0).sum() * voxel, rel=1e-4)


def test_a_png_does_not_know_its_millimetres(run: tuple[Path, Path, str]) -> None:
    _, out, _ = run
    with (out / "png" / "png_findings.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["volume_mm3"], row["x_mm"], row["side"]) == ("", "", "unknown")
    assert summary(out)["png"]["volume_mm3"] == ""


def test_pseudo_healthy_is_the_input_outside_the_mask(run: tuple[Path, Path, str]) -> None:
    source, out, _ = run
    original = np.asarray(nib.load(source / "volume.nii.gz").dataobj).astype(np.float32)
    healthy, coarse, mask = (result(out, "volume", name) for name in ("pseudo_healthy", "coarse", "mask"))
    np.testing.assert_array_equal(healthy[mask == 0], original[mask == 0])
    touched = np.flatnonzero((coarse != original).any(axis=(0, 1)))
    assert touched.tolist() == [31]  # the paper's level, z = +23 mm
    assert result(out, "volume", "anomaly").any(axis=(0, 1)).nonzero()[0].tolist() == [31]
    assert healthy[mask > 0].max() > 5  # in the input's own units, not in [0, 1]


def test_one_slice_gives_one_result_however_it_is_stored(run: tuple[Path, Path, str]) -> None:
    _, out, _ = run
    reference = result(out, "ras", "anomaly")[..., 0]
    assert reference.max() > 0
    others = {
        "png": result(out, "png", "anomaly")[..., 0][:, ::-1],  # rows of a PNG run to posterior
        "flat": result(out, "flat", "anomaly"),
        "lps": result(out, "lps", "anomaly")[::-1, ::-1, 0],
    }
    for name, other in others.items():
        assert np.abs(other - reference).max() < 1e-4 * reference.max(), name
    scores = {row["anomaly_score"] for case, row in summary(out).items() if case in SLICES}
    assert len({f"{float(score):.4g}" for score in scores}) == 1


def test_summary_names_the_slices(run: tuple[Path, Path, str]) -> None:
    assert summary(run[1])["volume"]["slices"] == "31"


def test_report_holds_pictures_and_errors(run: tuple[Path, Path, str]) -> None:
    html = (run[1] / "report.html").read_text(encoding="utf-8")
    assert html.count('<img src="data:image/jpeg;base64,') == len(GOOD)
    assert "cannot be read" in html
    assert "weights sha256" in html


def test_the_whole_head_threshold_and_switches(scratch_bundle: Path, tmp_path: Path) -> None:
    """Every level of the brain; a threshold of one's own; fewer files."""
    volume, affine = small_template(6.0)
    source, out = save_nifti(tmp_path / "head.nii.gz", volume, affine), tmp_path / "out"
    options = {"save_picture": False, "save_coarse": False, "save_findings": False, "report": False}
    run_inference(scratch_bundle, source, out, slices="brain", label_threshold=0.0, **options)
    names = {path.name for path in (out / "head").iterdir()}
    missing = {"head_coarse.nii.gz", "head_findings.csv", "head.png", "head.html", "dicom"}
    assert names == set(result_names("head")) - missing
    assert not (out / "report.html").exists()
    assert summary(out)["head"]["slices"] == "0-25"
    anomaly = result(out, "head", "anomaly")
    np.testing.assert_array_equal(result(out, "head", "label") > 0, anomaly > 0)
    assert not anomaly[volume == 0].any()  # air
    assert (anomaly > 0).any(axis=(0, 1)).sum() > 15


def test_a_second_run_gives_the_same_bytes(run: tuple[Path, Path, str], scratch_bundle: Path, tmp_path: Path) -> None:
    run_inference(scratch_bundle, run[0] / "ras.nii.gz", tmp_path / "out", slices="mid")
    assert tree(tmp_path / "out" / "ras") == tree(run[1] / "ras")


def test_results_inside_the_input_folder_are_no_cases(tmp_path: Path, png: Path) -> None:
    out = tmp_path / "results"
    save_nifti(out / "head" / "head_label.nii.gz", np.zeros((20, 20, 2), np.uint8), np.eye(4))
    assert [case["case"] for case in checked_cases(str(tmp_path), str(out))] == ["head"]
    with pytest.raises(PhanesInputError, match="nothing but earlier results"):
        checked_cases(str(out / "head"), str(out))


def test_setup_mistakes_are_one_sentence(tmp_path: Path, png: Path) -> None:
    (tmp_path / "file").write_text("")
    for kwargs, reason in (
        ({"dataset_dir": str(tmp_path / "no"), "output_dir": str(tmp_path / "o")}, "does not exist"),
        ({"dataset_dir": str(tmp_path), "output_dir": str(tmp_path)}, "is also the dataset_dir"),
        ({"dataset_dir": str(png), "output_dir": str(tmp_path / "file" / "o")}, "cannot be created"),
        ({"dataset_dir": str(png), "output_dir": str(tmp_path / "o"), "device": "cuda:99"}, "device 'cuda:99'"),
        ({"dataset_dir": str(png), "output_dir": str(tmp_path / "o"), "device": "gpu"}, "device 'gpu'"),
        ({"dataset_dir": str(png), "output_dir": str(tmp_path / "o"), "num_workers": -2}, "num_workers is -2: give"),
        ({"dataset_dir": str(png), "output_dir": str(tmp_path / "o"), "num_workers": "many"}, "num_workers is 'many'"),
    ):
        with pytest.raises(PhanesInputError, match=reason):
            checked_cases(**kwargs)


def test_weights_and_calibration_must_be_there_and_belong_together(scratch_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(scratch_bundle / "models", root / "models")
    model, record = root / "models" / "model.pt", root / "models" / "calibration.json"
    assert read_calibration(record, model)["heads"]["label_threshold"] == 0.02
    known = json.loads(record.read_text())
    known.pop("label_threshold")
    record.write_text(json.dumps({**known, "heads": {"label_threshold": 3.0}}))
    assert set(read_calibration(record, model)) & {"heads", "slices"} == {"heads"}
    with pytest.raises(PhanesInputError, match=r"weights '.*no.pt' not found"):
        read_calibration(record, root / "no.pt")
    with pytest.raises(PhanesInputError, match=r"calibration '.*no.json' not found"):
        read_calibration(root / "no.json", model)
    write_calibration(root, weights_sha256="0" * 64)
    with pytest.raises(PhanesInputError, match="was made for other weights"):
        read_calibration(record, model)
    for text in ("", "[]", "{}", '{"label_threshold": "x", "weights_sha256": ""}'):
        record.write_text(text)
        with pytest.raises(PhanesInputError, match="is not a calibration record"):
            read_calibration(record, model)


def test_weights_without_a_mask_threshold_do_not_pass_for_a_healthy_finding(
    scratch_bundle: Path, tmp_path: Path, png: Path
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(scratch_bundle, root, symlinks=True)
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    state["mask.threshold"].fill_(float("nan"))
    torch.save(state, root / "models" / "model.pt")
    write_calibration(root)
    with pytest.raises(RuntimeError) as caught:
        run_inference(root, png, tmp_path / "out")
    assert "1 of 1 case failed" in sentence_of(caught.value)
    assert "not finite" in summary(tmp_path / "out")["head"]["error"]


class Convolved(torch.nn.Module):
    """A network that tells in which precision its convolution ran."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(2, 1, 3, padding=1)
        self.seen = []

    def forward(self, image):
        result = self.layer(image)
        self.seen.append(result.dtype)
        return result.float()


@pytest.mark.parametrize(("amp", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_network_runs_in_the_precision_that_was_asked_for(amp, precision):
    torch.manual_seed(0)
    network, volume = Convolved(), torch.rand(1, 2, 16, 16, 3)
    with torch.inference_mode():
        found = HeadInferer(amp=amp)(volume, network)
        assert set(network.seen) == {precision}
        torch.testing.assert_close(found, network(volume), atol=0.02, rtol=0)


def test_words_of_the_command_line_become_truth_values_in_one_place():
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "amp": "true", "strict": "False", "save_mask": "no", "report": 1})
    assert parser.get_parsed_content("inferer").amp is True
    switches, save = parser.get_parsed_content("switches"), parser.get_parsed_content("save")
    assert (switches["strict"], switches["report"], save["mask"], save["label"]) == (False, True, False, True)
    parser.update({"amp": "half"})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("inferer")
    assert sentence_of(caught.value) == "amp is 'half': give true or false."


def test_a_calibration_made_with_other_choices_is_said(tmp_path, caplog):
    """The shipped record, and the network that paper.json builds."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("inference.json", "paper.json")])
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", "network_def::mask::percentile": 98})
    network = parser.get_parsed_content("network_def")
    files = BUNDLE / "models" / "paper.json", BUNDLE / "models" / "model.pt"
    read_calibration(*files, network)
    assert "was made with mask.percentile 99.0" in caplog.text
    caplog.clear()
    network.mask.percentile = 99.0
    read_calibration(*files, network)
    assert not caplog.text
