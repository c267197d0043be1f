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

from tests.conftest import ras_of_slice, run_inference, save_nifti
from tests.release.hosts import DeployHost, LabelHost, another_program

THRESHOLD = 0.01


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, phantom: np.ndarray) -> Path:
    """A small head in native space, sagittal and oblique, as scanners store it."""
    ras = ras_of_slice(phantom)[::2, ::2]
    volume = np.concatenate([ras // 2, ras, ras, ras, ras // 2], axis=-1)
    angle = 0.1
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.diag([2.0, 2.0, 3.0])
    affine[:3, 3] = [-90, -120, 15]
    # Stored (anterior, superior, left): axes permuted and flipped.
    stored = volume[::-1].transpose(1, 2, 0)
    affine[:3, 3] += affine[:3, 0] * (volume.shape[0] - 1)
    affine[:3, :3] = affine[:3, [1, 2, 0]] * [1, 1, -1]
    return save_nifti(tmp_path_factory.mktemp("scan") / "head.nii.gz", stored, affine)


@pytest.fixture(scope="module")
def expected(packaged: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The bundle's own labels and map: `monai.bundle run inference`."""
    out = tmp_path_factory.mktemp("expected")
    only = {f"save_{name}": False for name in ("pseudo_healthy", "coarse", "mask", "picture")}
    labels = {}
    for name, options in {"mid": {}, "slab": {"slab_mm": 7}}.items():
        run_inference(packaged, scan, out / name, label_threshold=THRESHOLD, report=False, **only, **options)
        labels[name] = np.asarray(nib.load(out / name / "head" / "head_label.nii.gz").dataobj)
        labels[f"{name}_map"] = np.asarray(nib.load(out / name / "head" / "head_anomaly.nii.gz").dataobj)
    assert 0 < labels["mid"].sum() < labels["slab"].sum()
    return labels


def test_label_gives_the_bundles_own_label(
    packaged: Path, scan: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with another_program(tmp_path):
        host = LabelHost(packaged)
        assert host.labels == {"anomaly": 1}
        label = host.infer(str(scan), threshold=THRESHOLD)
        again = host.infer(str(scan), threshold=THRESHOLD)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, expected["mid"])
    np.testing.assert_array_equal(again, expected["mid"])
    assert not list(tmp_path.iterdir())


def test_labels_options_panel_works_on_numbers_and_on_text(
    packaged: Path, scan: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    calibrated = json.loads((packaged / "models/calibration.json").read_text())["label_threshold"]
    with another_program(tmp_path):
        host = LabelHost(packaged)
        assert host.options == {"threshold": "calibrated", "slab_mm": 0}
        np.testing.assert_array_equal(host.infer(str(scan)), expected["mid_map"] > calibrated)
        np.testing.assert_array_equal(host.infer(str(scan), threshold="0"), expected["mid_map"] > 0)
        np.testing.assert_array_equal(host.infer(str(scan), threshold="0.01", slab_mm="7"), expected["slab"])
        np.testing.assert_array_equal(host.infer(str(scan), threshold=THRESHOLD, slab_mm=0), expected["mid"])


def test_label_cannot_use_another_file_as_weights_unnoticed(packaged: Path, scan: Path, tmp_path: Path) -> None:
    """It offers every models/*.pt and loads with strict=False: a wrong one must not pass for a healthy finding."""
    with another_program(tmp_path):
        host = LabelHost(packaged, checkpoint="perceptual_distilled.pt")
        with pytest.raises(Exception, match="output is not finite") as raised:
            host.infer(str(scan))
    assert type(raised.value).__name__ == "PhanesInputError"


def test_deploy_gives_the_bundles_own_label(
    packaged: Path, scan: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    image = nib.load(scan)
    with another_program(tmp_path):
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
    np.testing.assert_array_equal(label.transpose(2, 1, 0), expected["mid"])
    assert not list(tmp_path.iterdir())


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
    assert output["channel_def"] == {"0": "background", "1": "anomaly"}
    assert formats["post_processed_outputs"][name]["dtype"] == "uint8"
