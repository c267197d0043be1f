"""The MONAI Model Zoo's verification of a bundle, rule by rule and without an exemption, on the packaged bundle.

The rules are those of `ci/verify_bundle.py` in Project-MONAI/model-zoo. Two of the four generative bundles there are
exempt from the check of the network, or of the export; this one asks for neither.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from PIL import Image

from scripts.release.torchscript import export_torchscript
from tests.release.hosts import another_program

SCHEMA = Path(__file__).parents[1] / "schemas" / "meta_schema_20240725.json"


@pytest.fixture(scope="module")
def metadata(packaged: Path) -> dict:
    return json.loads((packaged / "configs" / "metadata.json").read_text(encoding="utf-8"))


def test_nothing_is_left_to_download(packaged: Path) -> None:
    assert not list(packaged.glob("large_files.*"))


@pytest.mark.parametrize("name", ["configs/metadata.json", "configs/inference.json", "models/model.pt", "LICENSE"])
def test_required_files_are_there_under_exactly_these_names(packaged: Path, name: str) -> None:
    assert name in {path.relative_to(packaged).as_posix() for path in packaged.rglob("*")}


def test_the_version_is_a_key_of_the_changelog(metadata: dict) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["changelog"][metadata["version"]]


def test_metadata_is_valid_by_monais_own_check(packaged: Path, tmp_path: Path) -> None:
    """With the schema at hand, under the address the file names; a broken file is refused."""
    schema = tmp_path / "schema.json"
    schema.write_text(SCHEMA.read_text(encoding="utf-8"), encoding="utf-8")
    meta = packaged / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta), filepath=str(schema))
    broken = json.loads(meta.read_text()) | {"supported_apps": ["monai-label"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json.loads(schema.read_text()))


def test_required_packages_are_exact_versions_of_the_index(metadata: dict) -> None:
    packages = {
        **metadata["required_packages_version"],
        **{name: metadata[f"{name}_version"] for name in ("monai", "pytorch", "numpy")},
    }
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in packages.values()), packages


@pytest.fixture
def slices(tmp_path: Path, phantom: np.ndarray) -> Path:
    """The least that both workflows accept as data."""
    for split in ("train", "val"):
        (tmp_path / "slices" / split).mkdir(parents=True)
        Image.fromarray(phantom).save(tmp_path / "slices" / split / "head.png")
    return tmp_path / "slices"


def test_all_properties_are_there_under_the_ids_of_monais_lists(packaged: Path, slices: Path, tmp_path: Path) -> None:
    """The required ones all; the optional ones under no other id than MONAI's."""
    with another_program(tmp_path):
        for kind, properties in (("inference", InferProperties), ("train", TrainProperties)):
            workflow = ConfigWorkflow(
                config_file=str(packaged / "configs" / f"{kind}.json"),
                workflow_type=kind,
                logging_file=False,
                bundle_root=str(packaged),
                dataset_dir=str(slices),
                output_dir=str(tmp_path / "out"),
                device="cpu",
            )
            workflow.initialize()
            assert workflow.check_properties() == []
            required = {name for name, entry in {**properties, **MetaProperties}.items() if entry["required"]}
            assert required <= set(workflow.properties)


def test_the_network_takes_and_gives_what_the_metadata_say(packaged: Path, tmp_path: Path) -> None:
    with another_program(packaged):
        verify_net_in_out(
            net_id="network_def",
            meta_file="configs/metadata.json",
            config_file="configs/inference.json",
            device="cpu",
            bundle_root=str(packaged),
        )


def test_the_weights_are_exported_to_torchscript_the_same_each_time(packaged: Path, tmp_path: Path) -> None:
    """By MONAI's `ckpt_export`; the program loads, carries the configs, and computes what the network computes."""
    program = export_torchscript(packaged)
    try:
        first = program.read_bytes()
        extra = {"inference.json": "", "metadata.json": ""}
        module = torch.jit.load(str(program), _extra_files=extra)
        assert export_torchscript(packaged).read_bytes() == first
    finally:
        program.unlink(missing_ok=True)  # the package was made without one
    assert str(packaged).encode() not in first  # no path of this machine
    assert (
        json.loads(extra["metadata.json"])["name"]
        == json.loads((packaged / "configs/metadata.json").read_text())["name"]
    )
    assert "network_def" in json.loads(extra["inference.json"])
    heads = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    images = torch.cat([heads, torch.full_like(heads, 23.0)], dim=1)
    with another_program(packaged):
        workflow = ConfigWorkflow(
            config_file="configs/inference.json",
            workflow_type="inference",
            logging_file=False,
            bundle_root=str(packaged),
        )
        workflow.initialize()
        network = workflow.network_def.eval()
        network.load_state_dict(torch.load("models/model.pt", weights_only=True))
        with torch.no_grad():
            torch.testing.assert_close(module(images), network(images), rtol=1e-4, atol=1e-5)


def test_style_of_the_zoo(packaged: Path) -> None:
    """JSON indented by four, no absolute path, the tunables before the components."""
    for path in (packaged / "configs").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert re.search(r'^    "', text, flags=re.MULTILINE), path.name
        assert not re.search(r"^(\t|  ?(?! ))\S", text, flags=re.MULTILINE), path.name
        assert not re.search(r"\"(/|~|[A-Z]:)[\w/]", text), path.name
    names = list(json.loads((packaged / "configs" / "inference.json").read_text()))
    assert names.index("dataset_dir") < names.index("network_def") < names.index("evaluator")
