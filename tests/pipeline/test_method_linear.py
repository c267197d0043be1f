"""`--method linear` in inference: its own network, weights and record; a host that does not know it is not misled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.method.networks.linear import LinearAutoencoder
from scripts.release.export import about, bundle_network
from scripts.space import alignment
from tests.conftest import BUNDLE, LINEAR_LABEL, run_inference
from tests.release.hosts import LabelHost, another_program
from tests.synthetic_heads import found_at_once, write_heads


def parser_of(root: Path, **entries: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    parser.update({"bundle_root": str(root), **entries})
    return parser


def test_weights_and_record_are_the_methods_own_or_lie_together() -> None:
    files = ("weights_file", "calibration_file")

    def names(**entries: str) -> list[str]:
        return [parser_of(Path("B"), **entries).get_parsed_content(name) for name in files]

    assert names() == ["B/models/model.pt", "B/models/calibration.json"]
    assert names(method="linear") == ["B/models/linear.pt", "B/models/linear.json"]
    assert names(method="linear", weights_file="runs/model.pt") == ["runs/model.pt", "runs/calibration.json"]


def test_a_head_is_analysed_by_the_linear_network(
    linear_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "register", found_at_once)
    heads = write_heads(tmp_path / "in", 1)
    head = nib.load(heads / "head0.nii.gz")
    values = np.asarray(head.dataobj).copy()
    values[26:30, 20:24, 20:24] = 200
    nib.save(nib.Nifti1Image(values, head.affine), heads / "head0.nii.gz")
    workflow = run_inference(linear_bundle, heads, tmp_path / "out", method="linear", slices="brain")
    network = workflow.parser.get_parsed_content("network_def")
    assert isinstance(network.network, LinearAutoencoder)
    assert network.mask.percentile == 99.5
    assert workflow.parser.get_parsed_content("calibration")["heads"]["label_threshold"] == LINEAR_LABEL
    anomaly = nib.load(tmp_path / "out" / "head0" / "head0_anomaly.nii.gz").get_fdata()
    peak = np.unravel_index(anomaly.argmax(), anomaly.shape)
    assert all(low - 1 <= at <= low + 4 for at, low in zip(peak, (26, 20, 20), strict=True))


def test_an_unknown_method_is_one_sentence(scratch_bundle: Path, tmp_path: Path) -> None:
    write_heads(tmp_path / "in", 1)
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(scratch_bundle)]
    options = ["--config_file", str(BUNDLE / "configs" / "inference.json"), "--dataset_dir", str(tmp_path / "in")]
    more = ["--output_dir", str(tmp_path / "out"), "--method", "lineal"]
    done = subprocess.run([*command, *options, *more], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: method is 'lineal': give both or linear."


def test_what_is_exported_is_the_methods_own(linear_bundle: Path) -> None:
    network, texts = bundle_network(linear_bundle, method="linear"), about(linear_bundle, "linear")
    assert type(network.network).__name__ == "LinearAutoencoder"
    assert json.loads(texts["calibration.json"])["label_threshold"] == LINEAR_LABEL


def test_label_cannot_take_the_linear_weights_for_the_other_network(linear_bundle: Path, tmp_path: Path) -> None:
    """Its panel offers every models/*.pt, and loads with strict=False."""
    with another_program(tmp_path), pytest.raises(RuntimeError, match="of another network: they do not hold network"):
        LabelHost(linear_bundle, checkpoint="linear.pt")


def test_the_shipped_weights_are_of_the_configs_network_and_small() -> None:
    network = parser_of(BUNDLE, method="linear").get_parsed_content("network_def")
    file = BUNDLE / "models" / "linear.pt"
    network.load_state_dict(torch.load(file, weights_only=True))
    assert not any(value.isnan().any() for value in network.state_dict().values())
    assert sum((BUNDLE / "models" / name).stat().st_size for name in ("model.pt", "linear.pt")) <= 100e6
    assert json.loads((BUNDLE / "models" / "linear.json").read_text())["heads"]["healthy_images"] >= 20
