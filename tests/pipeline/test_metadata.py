"""metadata.json is valid, complete, and agrees with the code, the requirements and the network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from monai.bundle import ConfigWorkflow, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties

import scripts
from tests.conftest import BUNDLE, REPOSITORY

SCHEMA = Path(__file__).parents[1] / "schemas" / "meta_schema_20240725.json"


@pytest.fixture(scope="module")
def metadata() -> dict:
    return json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))


def test_metadata_is_valid_and_filled(metadata: dict) -> None:
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text(encoding="utf-8")))
    for key in ("name", "task", "intended_use", "references", "data_source", "pred_classes", "authors", "copyright"):
        assert metadata[key], key
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]


def test_versions_agree_with_the_code_and_the_requirements(metadata: dict) -> None:
    assert metadata["version"] == scripts.__version__
    assert metadata["version"] in metadata["changelog"]
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([\w.]+)", text, flags=re.MULTILINE))
    assert metadata["monai_version"] == pins["monai"]
    assert metadata["pytorch_version"] == pins["torch"]
    assert metadata["numpy_version"] == pins["numpy"]
    for package, version in metadata["required_packages_version"].items():
        assert pins.get(package, version) == version, package


def test_network_has_the_described_input_and_output() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(BUNDLE),
    )


def test_inference_config_has_the_ids_that_hosts_read(scratch_bundle: Path, png: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(scratch_bundle / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(scratch_bundle),
        dataset_dir=str(png),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    required = {name for name, entry in {**InferProperties, **MetaProperties}.items() if entry["required"]}
    assert required <= set(workflow.properties)
    assert {"preprocessing", "postprocessing", "inferer", "network_def"} <= set(workflow.parser.config)


def test_the_metrics_are_those_of_the_evaluations() -> None:
    """Means over seeds of PHANES' own map in the records behind the model card."""
    metrics = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))["eval_metrics"]
    expected: dict[str, float] = {}
    for prefix, name in (("synthetic_", "synthetic"), ("real_", "tumours")):
        record = json.loads((BUNDLE / "docs" / "results" / f"{name}_record.json").read_text(encoding="utf-8"))
        found = [entry for entry in record["results"] if entry["system"] == "phanes"]
        for lesions in {entry["set"] for entry in found}:
            for measure in ("auprc", "best_dice"):
                values = [entry["maps"]["own"][measure] for entry in found if entry["set"] == lesions]
                expected[f"{prefix}{lesions}_{measure}"] = sum(values) / len(values)
    assert metrics == pytest.approx(expected, abs=6e-5)
