"""`evaluate_heads.json` by `monai.bundle run evaluate`, from raw heads to the tables."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from scripts.space import alignment
from tests.conftest import BUNDLE, LINEAR_LABEL

from ...synthetic_heads import found_at_once, write_heads, write_shapes
from .test_configs import read, run

ALL = "phanes,phanes_without_filling,phanes_without_linear,phanes_gt,linear,linear_coarse,perfect"
SYSTEMS = ALL.split(",")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads, shapes and one head with a real lesion, laid out as the shared data are."""
    root = tmp_path_factory.mktemp("data")
    heads = write_heads(root / "ixi_heads/val", 2)
    for part in ("even", "odd"):  # of each size one for val heads and one for test heads
        for file in write_shapes(root / part).iterdir():
            name = f"{file.name.removesuffix('.nii.gz')}_{part}.nii.gz"
            (root / "stroke_masks_3d").mkdir(exist_ok=True)
            file.rename(root / "stroke_masks_3d" / name)
    tumours = root / "tumour_heads"
    tumours.mkdir()
    (tumours / "a_t1w.nii.gz").write_bytes((heads / "head1.nii.gz").read_bytes())
    head = nib.load(heads / "head1.nii.gz")
    mask = np.zeros(head.shape, np.uint8)
    mask[24:30, 20:26, 22:28] = 1
    nib.save(nib.Nifti1Image(mask, head.affine), tumours / "a_mask.nii.gz")
    (tumours / "split.csv").write_text("patient,split\na,val\nb,test\n")
    return root


def test_the_linear_rows_are_the_linear_method_with_its_own_weights_and_record(linear_bundle):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("inference.json", "evaluate_heads.json")])
    parser.update({"bundle_root": str(linear_bundle), "device": "cpu"})
    rows = parser.get_parsed_content("system_defs")
    for name in ("linear", "linear_coarse"):
        assert type(rows[name].network.network).__name__ == "LinearAutoencoder"
        assert rows[name].weights == str(linear_bundle / "models" / "linear.pt")
    assert rows["linear"].own_label
    assert rows["linear"].postprocessing.transforms[-1].calibration["heads"]["label_threshold"] == LINEAR_LABEL
    assert type(rows["phanes"].network.network).__name__ == "BothNetworks"
    assert rows["phanes"].weights == str(linear_bundle / "models" / "model.pt")


def test_other_weights_have_a_row_with_their_own_label(linear_bundle):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("inference.json", "evaluate_heads.json")])
    weights = linear_bundle / "models" / "model.pt"
    parser.update({"bundle_root": str(linear_bundle), "device": "cpu", "other_weights": {"short": str(weights)}})
    row = parser.get_parsed_content("weights_defs")["short"]
    shipped = parser.get_parsed_content("system_defs")["phanes"]
    assert (row.label, row.role, row.own_label) == ("short", "proposed", True)
    assert row.network is not shipped.network
    assert row.fingerprint() == shipped.fingerprint()


@pytest.mark.slow
def test_the_bundle_and_the_controls_have_rows(data, linear_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "register", found_at_once)
    options = {"seeds": 1, "set_names": ["strokes", "gliomas"], "systems": SYSTEMS}
    run("evaluate_heads.json", linear_bundle, data_dir=str(data), output_dir=str(tmp_path), **options)
    record = json.loads((tmp_path / "record.json").read_text())
    results = {(result["set"], result["system"]): result for result in record["results"]}
    assert len(results) == 2 * len(SYSTEMS)
    assert results["strokes", "perfect"]["maps"]["own"]["auprc"] > 0.999
    assert results["gliomas", "perfect"]["maps"]["own"]["auprc"] > 0.999
    assert 0 < results["strokes", "phanes"]["maps"]["own"]["auprc"] < 0.99  # the head is the template, and easy
    assert 0 < results["strokes", "linear"]["maps"]["own"]["auprc"] < 0.99
    assert (
        results["strokes", "linear"]["maps"]["own"]["auprc"]
        != results["strokes", "linear_coarse"]["maps"]["own"]["auprc"]
    )
    assert results["strokes", "phanes_gt"]["maps"]["own"]["auprc"] > 0.5  # voxels of 4 mm: the rim lies between levels


def test_the_config_paints_other_masks_for_val_than_for_test():
    config = read("evaluate_heads.json")
    strokes = config["set_defs"][0]
    assert strokes["part"] == "$['val', 'test'].index(@split)"
    assert config["calibration_heads"]["folder"].endswith("ixi_heads/val'")
    assert config["split"] == "val"
