"""Both overlays start by `monai.bundle run evaluate`, share what they must share, and end mistakes in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from scripts.pipeline.inference import sentence_of
from scripts.study.evaluation.systems import trained_entries
from tests.conftest import BUNDLE, head_slice


def read(name: str) -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / name).read_text())


def below(overlay: str) -> list[str]:
    """The configs that an overlay lies on."""
    levels = [] if overlay == "evaluate_heads.json" else ["mid_axial.json"]
    return ["inference.json", *levels, *(["evaluate_synthetic.json"] if overlay == "evaluate_lesions.json" else [])]


def run(overlay: str, bundle: Path, *more: str, **overrides: Any) -> None:
    """`monai.bundle run evaluate` within this process, without what needs downloaded weights."""
    files = [str(BUNDLE / "configs" / name) for name in (*below(overlay), overlay, *more)]
    settings = {
        "bundle_root": str(bundle),
        "device": "cpu",
        "perceptual_weights": "",
        "resamples": 20,
        "figures": False,
    }
    workflow = ConfigWorkflow(
        files, logging_file=False, workflow_type="infer", run_id="evaluate", **{**settings, **overrides}
    )
    workflow.initialize()
    workflow.run()


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four healthy phantoms as `test/*.png`, two of them also as a pair with a mask."""
    root = tmp_path_factory.mktemp("slices")
    (root / "test").mkdir()
    (root / "pairs").mkdir()
    for seed in range(4):
        Image.fromarray(head_slice(seed)).save(root / "test" / f"head{seed}.png")
    for seed in range(2):
        image, mask = head_slice(seed), head_slice(seed) * 0
        mask[80:110, 40:70] = 255
        Image.fromarray((image * (1 - mask / 255 * 0.5)).astype("uint8")).save(root / "pairs" / f"head{seed}.png")
        Image.fromarray(mask).save(root / "pairs" / f"head{seed}_mask.png")
    return root


@pytest.fixture(scope="module")
def synthetic_table(scratch_bundle: Path, slices: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a small synthetic evaluation of PHANES with scratch weights."""
    out = tmp_path_factory.mktemp("synthetic")
    systems = ["phanes", "phanes_gt", "phanes_coarse", "paper", "constant", "perfect"]
    options = {"dataset_dir": str(slices), "shapes_dir": "", "lpips_weights": "", "seeds": [0, 1], "systems": systems}
    run("evaluate_synthetic.json", scratch_bundle, output_dir=str(out), **options)
    return json.loads((out / "record.json").read_text())


def test_every_system_is_scored_on_every_lesion_set_and_seed(synthetic_table):
    found = {(r["set"], r["seed"], r["system"]) for r in synthetic_table["results"]}
    assert len(found) == 4 * 2 * 6
    assert synthetic_table["systems"]["phanes"]["weights_sha256"] is not None


def test_phanes_with_the_true_mask_is_nearly_perfect(synthetic_table):
    """Its map is 0 outside the mask. It misses what lies outside of the brain, such as ellipses on the background."""
    found = [result for result in synthetic_table["results"] if result["system"] == "phanes_gt"]
    assert found
    for result in found:
        assert result["maps"]["own"]["auprc"] > (0.5 if result["set"] == "ellipses" else 0.97)


def test_false_positives_are_measured_with_and_without_skull(synthetic_table):
    assert list(synthetic_table["clean_slices"]) == ["phanes", "paper"]
    for found in synthetic_table["clean_slices"].values():
        assert [row["set"] for row in found] == ["clean slices", "clean slices, skull-stripped"]
    for row in (row for found in synthetic_table["clean_slices"].values() for row in found):
        low, high = row["interval_95"]
        assert 0 <= low <= row["rate"] <= high <= 1
        assert row["threshold"] == 0.02


def test_the_third_overlay_evaluates_the_same_lesions_under_a_shift(scratch_bundle, slices, tmp_path):
    options = {"dataset_dir": str(slices), "shapes_dir": "", "lpips_weights": "", "seeds": [0], "systems": "phanes"}
    shifts = {"sets": "ellipses", "shifts": ["@skull_stripped"], "figures": True, "examples": 2}
    overlays = ("evaluate_synthetic.json", scratch_bundle, "evaluate_shifts.json")
    run(*overlays, output_dir=str(tmp_path), **options, **shifts)
    record = json.loads((tmp_path / "record.json").read_text())
    assert [r["set"] for r in record["results"]] == ["ellipses", "ellipses, skull-stripped"]
    assert record["title"].startswith("Synthetic lesions under shifts")
    for name in ("shifts.png", "figure_ellipses_skull-stripped.png", "precision_recall_ellipses.png"):
        assert (tmp_path / name).stat().st_size > 3000


def test_sanity_rows_of_the_bundle_hold(synthetic_table):
    for result in synthetic_table["results"]:
        own = result["maps"]["own"]
        if result["system"] == "constant":
            assert own["auprc"] == pytest.approx(own["prevalence"], abs=1e-9)
        if result["system"] == "perfect":
            assert own["auprc"] == own["best_dice"] == 1.0


def test_lesions_are_evaluated_with_other_tools_beside(scratch_bundle, slices, tmp_path):
    import numpy as np

    for seed in range(2):
        mask = np.asarray(Image.open(slices / "pairs" / f"head{seed}_mask.png"))
        np.save(tmp_path / f"head{seed}.npy", mask.astype(np.float32))
    run(
        "evaluate_lesions.json",
        scratch_bundle,
        dataset_dir=str(slices / "pairs"),
        output_dir=str(tmp_path / "out"),
        systems=["phanes", "same again", "constant", "other tool"],
        external={"other tool": str(tmp_path)},
        other_weights={"same again": str(scratch_bundle / "models" / "mid_axial.pt")},
    )
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    maps = {result["system"]: result["maps"] for result in record["results"]}
    assert maps["same again"] == maps["phanes"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| other tool | **100.00 ± 0.00** |" in text
    assert "19.96" in text  # the paper's, in its own column
    assert "paper's ATLAS" in text


def test_missing_weights_cost_their_own_row_only(scratch_bundle, slices, tmp_path):
    options = {"dataset_dir": str(slices / "pairs"), "output_dir": str(tmp_path), "systems": ["phanes", "constant"]}
    with pytest.raises(RuntimeError) as caught:
        run("evaluate_lesions.json", scratch_bundle, weights_file="nowhere.pt", **options)
    assert sentence_of(caught.value).startswith("1 of 2 systems could not run. No weights")
    assert "constant map" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("overlay", ["evaluate_synthetic.json", "evaluate_lesions.json", "evaluate_shifts.json"])
def test_an_evaluation_changes_nothing_of_the_method_it_evaluates(overlay):
    """An overlay's entries replace those of the same name: `mask_cut` once was the lesions' masks' here, m's there."""
    shared = {
        key
        for key in read(overlay).keys() & (read("inference.json").keys() | read("mid_axial.json").keys())
        if not key.startswith("_")
    }
    assert shared <= {"dataset_dir", "output_dir", "preprocessing", "initialize"}


def test_the_rows_of_the_papers_tables_are_there_in_their_order():
    """Others may stand among them: a new baseline needs no line here."""
    synthetic = read("evaluate_synthetic.json")
    ours = ["phanes", "phanes_gt", "paper"]
    assert list(synthetic["system_defs"]) == ours
    assert set(synthetic["sanity_defs"]) == {"constant", "perfect"}
    papers = ["ra", "si_vae", "vae", "dae", "anoddpm", "patchcore", "mkd"]
    rows = list(trained_entries(BUNDLE / "configs" / "baselines", "runs"))
    assert [key for key in rows if key in papers] == papers


def test_baselines_are_built_from_the_configs_that_train_them_and_their_weights_looked_for_where_these_write():
    baselines = trained_entries(BUNDLE / "configs" / "baselines", "runs", {"size": "compact"})
    for key, entry in baselines.items():
        assert entry.config_files == [str(BUNDLE / "configs" / "baselines" / f"{key}.json")]
        assert entry.overrides == {"size": "compact"}
        training = read(f"baselines/{key}.json")
        assert "_target_" in training["network_def"]
        assert entry.weights == Path(training["output_dir"]) / "model.pt"


def test_the_papers_numbers_stand_in_the_config_as_published():
    paper = read("evaluate_lesions.json")["paper_atlas"]
    assert paper["phanes"] == {"own.auprc": 19.96, "own.best_dice": 32.17}
    assert paper["anoddpm"] == {"own.auprc": 16.33, "own.best_dice": 27.64}
    assert read("evaluate_synthetic.json")["paper"]["ellipses"]["phanes"] == {
        "own.auprc": 77.93,
        "own.best_dice": 75.47,
    }


@pytest.mark.parametrize(
    ("overlay", "option", "value", "sentence"),
    [
        ("evaluate_synthetic.json", "--dataset_dir", "nowhere", "dataset_dir 'nowhere' does not exist"),
        (
            "evaluate_lesions.json",
            "--dataset_dri",
            "nowhere",
            "Unknown option --dataset_dri: did you mean --dataset_dir?",
        ),
    ],
)
def test_a_mistake_on_the_command_line_ends_in_one_sentence(overlay, option, value, sentence, tmp_path):
    files = [str(BUNDLE / "configs" / name) for name in (*below(overlay), overlay)]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "evaluate", "--bundle_root", str(BUNDLE)]
    result = subprocess.run(
        [*command, "--config_file", str(files), option, value],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
