"""The bill of materials: valid CycloneDX, every pin, every file of weights, nothing that changes by itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts.release.sbom import pinned
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def sbom(packaged: Path) -> dict:
    return json.loads((packaged / "sbom.cdx.json").read_text(encoding="utf-8"))


def test_it_is_valid_against_the_published_schema(packaged: Path) -> None:
    text = (packaged / "sbom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"library"', '"bookshelf"')) is not None


def test_every_pinned_dependency_is_a_component_of_the_bundle(sbom: dict) -> None:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.split("==")[0].split("[")[0]: line.split("==")[1] for line in lines if "==" in line}
    libraries = {c["name"]: c for c in sbom["components"] if c["type"] == "library"}
    assert {name: c["version"] for name, c in libraries.items()} == pins
    assert libraries["torch"]["purl"] == f"pkg:pypi/torch@{pins['torch']}"
    (edges,) = [d["dependsOn"] for d in sbom["dependencies"] if d["ref"] == sbom["metadata"]["component"]["bom-ref"]]
    assert set(edges) == {component["bom-ref"] for component in sbom["components"]}


def test_weights_are_components_with_their_hash(sbom: dict, packaged: Path) -> None:
    models = {c["name"]: c["hashes"] for c in sbom["components"] if c["type"] == "machine-learning-model"}
    assert set(models) == {f"models/{path.name}" for path in (packaged / "models").glob("*.pt")}
    for name, hashes in models.items():
        expected = hashlib.sha256((packaged / name).read_bytes()).hexdigest()
        assert hashes == [{"alg": "SHA-256", "content": expected}]


def test_it_names_the_bundle(sbom: dict, packaged: Path) -> None:
    metadata = json.loads((packaged / "configs/metadata.json").read_text())
    component = sbom["metadata"]["component"]
    assert (component["name"], component["version"]) == ("phanes_t1w_brain_anomaly", metadata["version"])
    assert component["licenses"] == [{"expression": "Apache-2.0"}]


def test_pins_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# a comment\n\nmonai[fire,ignite]==1.6.1  # why\nPillow==12.1.0\n")
    assert pinned(tmp_path / "r.txt") == {"monai": "1.6.1", "Pillow": "12.1.0"}
