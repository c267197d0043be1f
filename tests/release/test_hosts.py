"""The package inside its hosts: what MONAI Label and MONAI Deploy do to it changes no voxel of the label."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from tests.conftest import run_inference
from tests.heads import ball, oblique, on_grid, reoriented
from tests.release.hosts import DeployHost, LabelHost, another_program

THRESHOLD = 0.01


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small head with a dark lesion, sagittal and oblique, as scanners store it; its header says where it lies."""
    shape = (36, 44, 36)
    affine = oblique(shape, (5.0, 5.0, 5.0), (3.0, -2.0, 6.0))
    lesion = ball(affine, shape, np.array([38.0, -30.0, 23.0]), 16.0)
    stored, grid = reoriented(
        on_grid(affine, shape) * (1 - 0.8 * lesion), affine, np.array([[2, -1], [0, 1], [1, 1.0]])
    )
    image = nib.Nifti1Image(np.round(stored), grid)
    image.header.set_sform(grid, code="mni")
    path = tmp_path_factory.mktemp("scan") / "head.nii.gz"
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def expected(packaged: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The bundle's own labels and map: `monai.bundle run inference`."""
    out = tmp_path_factory.mktemp("expected")
    only = {f"save_{name}": False for name in ("pseudo_healthy", "coarse", "mask", "picture")}
    labels = {}
    for name in ("mid", "brain"):
        run_inference(packaged, scan, out / name, label_threshold=THRESHOLD, report=False, slices=name, **only)
        labels[name] = np.asarray(nib.load(out / name / "head" / "head_label.nii.gz").dataobj)
        labels[f"{name}_map"] = np.asarray(nib.load(out / name / "head" / "head_anomaly.nii.gz").dataobj)
    assert 0 < (labels["mid"] > 0).sum() < (labels["brain"] > 0).sum()
    return labels


def test_label_gives_the_bundles_own_label(
    packaged: Path, scan: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with another_program(tmp_path):
        host = LabelHost(packaged)
        assert host.labels == {f"finding {n}": n for n in range(1, 21)}
        label = host.infer(str(scan), threshold=THRESHOLD, slices="brain")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, expected["brain"])
    assert not list(tmp_path.iterdir())


def test_labels_options_panel_offers_a_choice_and_works_on_numbers_and_on_text(
    packaged: Path, scan: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with another_program(tmp_path):
        host = LabelHost(packaged)
        assert host.options == {"threshold": "calibrated", "slices": ["brain", "mid"]}
        np.testing.assert_array_equal(host.infer(str(scan), threshold="0", slices="mid") > 0, expected["mid_map"] > 0)
        np.testing.assert_array_equal(host.infer(str(scan), threshold=THRESHOLD, slices="mid"), expected["mid"])


def test_label_cannot_use_another_file_as_weights_unnoticed(packaged: Path, tmp_path: Path) -> None:
    """It offers every models/*.pt and loads with strict=False: a wrong one must not pass for a healthy finding."""
    with another_program(tmp_path), pytest.raises(RuntimeError, match="are of another network: they do not hold"):
        LabelHost(packaged, checkpoint="perceptual_distilled.pt")


def test_deploy_gives_the_bundles_own_label(packaged: Path, scan: Path, tmp_path: Path) -> None:
    """From DICOM, which has no codes: the head is registered."""
    image = nib.load(scan)
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "head.nii.gz")
    only = {f"save_{name}": False for name in ("pseudo_healthy", "coarse", "mask", "picture")}
    out = tmp_path / "out"
    run_inference(packaged, tmp_path / "head.nii.gz", out, label_threshold=THRESHOLD, report=False, **only)
    expected = np.asarray(nib.load(out / "head" / "head_label.nii.gz").dataobj)
    (tmp_path / "elsewhere").mkdir()
    with another_program(tmp_path / "elsewhere"):
        sys.path.insert(0, str(packaged))
        parser = ConfigParser()
        parser.read_config(str(packaged / "configs" / "inference.json"))
        network = parser.get_parsed_content("network_def").eval()
        network.load_state_dict(torch.load(packaged / "models" / "model.pt", weights_only=True))
        host = DeployHost(packaged, torch.jit.script(network))
        host.parser["displayable_configs::threshold"] = THRESHOLD
        host.parser.parse()
        host.pre, host.post = host._without_files("preprocessing"), host._without_files("postprocessing")
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        label = host.infer(np.asarray(image.dataobj, dtype=np.float32), lps)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label.transpose(2, 1, 0), expected)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_config_of_the_hosts_stands_alone(packaged: Path) -> None:
    """No macro names another file, no reference leads nowhere, and no word in the name makes Label guess a task."""
    text = (packaged / "configs" / "inference.json").read_text(encoding="utf-8")
    assert '"%' not in text
    assert not any(word in packaged.name for word in ("detection", "classification", "deepedit", "deepgrow"))
    parser = ConfigParser()
    parser.read_config(str(packaged / "configs" / "inference.json"))
    for reference in set(re.findall(r"@([A-Za-z_]\w*(?:(?:::|#)\w+)*)", text)):
        assert reference in parser, reference


def test_the_first_output_is_the_label_that_hosts_take(packaged: Path) -> None:
    formats = json.loads((packaged / "configs/metadata.json").read_text())["network_data_format"]
    name, output = next(iter(formats["outputs"].items()))
    assert (next(iter(formats["inputs"])), name) == ("image", "pred")
    assert output["channel_def"] == {"0": "background", **{str(n): f"finding {n}" for n in range(1, 21)}}
    assert formats["post_processed_outputs"][name]["dtype"] == "uint8"
