"""Healthy heads set the label: the promised share of the brain, the promised number of findings, and no less."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scipy.ndimage import gaussian_filter

from scripts.common.errors import PhanesInputError
from scripts.common.files import sha256_of_file
from scripts.pipeline.findings import regions
from scripts.pipeline.thresholds import Thresholds
from scripts.training.calibration import false_positive_interval
from scripts.training.calibration_heads import Healthy, choose
from tests.conftest import BUNDLE, head_slice, save_nifti
from tests.heads import on_grid


def healthy(seed: int, voxel: float = 8.0) -> Healthy:
    """A smooth random map of which all is brain."""
    rng = np.random.default_rng(seed)
    anomaly = np.abs(gaussian_filter(rng.standard_normal((40, 40, 30)), 1.5)).astype(np.float32)
    return Healthy(anomaly * rng.uniform(0.8, 1.2), anomaly.size, voxel, float(anomaly.mean()))


def test_the_label_keeps_its_promise_on_the_heads_it_was_set_on() -> None:
    heads = [healthy(seed) for seed in range(12)]
    record = choose(heads, 100.0, brain_share=0.01, findings=1.0)

    def found_above(threshold: float) -> list:
        return [regions(one.anomaly, threshold, 13, record["peak_share"]) for one in heads]  # 13 x 8 mm3 >= 100 mm3

    found = found_above(record["label_threshold"])
    assert np.mean([len(f[1]) for f in found]) == record["findings"] <= 1.0
    assert record["brain_share"] == pytest.approx(np.mean([(f[0] > 0).mean() for f in found]))
    assert record["brain_share"] <= 0.01
    assert record["findings_interval_95"][0] <= record["findings"] <= record["findings_interval_95"][1]
    counts = np.array([float(len(f[1])) for f in found_above(0.95 * record["label_threshold"])])
    assert (
        record["findings_interval_95"][1] <= 1.0 < false_positive_interval(counts, 2000, 0)[1]
    )  # the lowest that does
    assert record["healthy_peaks"] == pytest.approx(sorted(max(f[1], default=0.0) for f in found), rel=1e-4)
    assert [[peak for peak, _ in one] for one in record["healthy_findings"]] == [
        pytest.approx(f[1], rel=1e-4) for f in found
    ]
    assert [[size for _, size in one] for one in record["healthy_findings"]] == [[8.0 * n for n in f[2]] for f in found]
    assert record["healthy_scores"] == sorted(record["healthy_scores"])


def test_maps_of_zeros_leave_nothing_to_find() -> None:
    empty = [Healthy(np.zeros((5, 5, 5), np.float32), 125, 1.0, 0.0)] * 6
    record = choose(empty, 0.0)
    assert (record["label_threshold"], record["smallest"], record["findings"]) == (0.0, 0.0, 0.0)
    assert record["healthy_peaks"] == [0.0] * 6


def test_too_few_images_and_maps_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PhanesInputError, match="4 healthy images of one kind are too few"):
        choose([healthy(seed) for seed in range(4)], 0.0)
    broken = healthy(0)
    broken.anomaly[3, 3, 3] = np.nan
    with pytest.raises(PhanesInputError, match="hold NaN"):
        choose([broken] + [healthy(seed) for seed in range(5)], 0.0)


@pytest.mark.slow
def test_a_run_over_healthy_images_writes_the_record_of_both_kinds(
    scratch_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Five whole heads and five slices."""
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = [-96, -132, 0]
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(1, 0.05, (33, 39, 4))  # few levels, to be quick
        image = nib.Nifti1Image((on_grid(affine, (33, 39, 4)) * noise).astype(np.float32), affine)
        image.header.set_sform(affine, code="mni")
        (tmp_path / "in").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "in" / f"head{seed}.nii.gz")
        slice_ = head_slice(seed)[::-1].T[..., None]
        save_nifti(tmp_path / "in" / f"slice{seed}.nii.gz", np.ascontiguousarray(slice_), np.eye(4))
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in ("inference.json", "calibrate_heads.json")],
        workflow_type="infer",
        logging_file=False,
        run_id="calibrate",
        bundle_root=str(scratch_bundle),
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        slices="brain",
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    before, after = (
        torch.load(f / "model.pt", weights_only=True) for f in (scratch_bundle / "models", tmp_path / "out")
    )
    assert before.keys() == after.keys()
    assert after["mask.threshold"] != before["mask.threshold"]
    assert after["network.restoration.stem.weight"].dtype == torch.float16
    assert torch.equal(after["mask_threshold"], before["mask_threshold"])  # of the other method in the file
    assert found["weights_sha256"] == sha256_of_file(tmp_path / "out" / "model.pt")
    said = capsys.readouterr().out
    for kind in ("heads", "slices"):
        assert found[kind]["healthy_images"] == len(found[kind]["healthy_peaks"]) == 5
        assert found[kind]["findings"] <= 1
        assert f"{kind}: label above" in said
    assert "guard" not in found
    assert Thresholds.of(found, "heads").label == found["heads"]["label_threshold"]


def test_single_slices_alone_set_the_mask_of_a_network_of_one_level(tmp_path: Path) -> None:
    for seed in range(5):
        slice_ = head_slice(seed)[::-1].T[..., None]
        save_nifti(tmp_path / "in" / f"slice{seed}.nii.gz", np.ascontiguousarray(slice_), np.eye(4))
    names = ("inference.json", "mid_axial.json", "calibrate_heads.json")
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in names],
        workflow_type="infer",
        logging_file=False,
        run_id="calibrate",
        bundle_root=str(BUNDLE),
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    weights = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert "heads" not in found
    assert found["slices"]["healthy_images"] == 5
    assert weights["network.restoration.mean"].shape[0] == 1  # level
    assert weights["mask.threshold"].isfinite()
