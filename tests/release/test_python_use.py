"""The package used from Python, from another folder, by MONAI's own calls."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow, load

from tests.release.hosts import another_program

NAME = "phanes_t1w_brain_anomaly"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    heads = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    return torch.cat([heads, torch.full_like(heads, 23.0)], dim=1)


@pytest.fixture(scope="module")
def expected(packaged: Path, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What the shipped weights compute, the network built by hand: of whole heads, and that which is trained."""
    results = {}
    with another_program(tmp_path_factory.mktemp("elsewhere")):
        for workflow, overlays in (("inference", []), ("train", ["paper.json"])):
            parser = ConfigParser()
            parser.read_config([str(packaged / "configs" / name) for name in ("inference.json", *overlays)])
            parser["bundle_root"] = str(packaged)
            network = parser.get_parsed_content("network_def").eval()
            network.load_state_dict(torch.load(packaged / "models" / "model.pt", weights_only=True))
            with torch.no_grad():
                results[workflow] = network(images)
    return results


@pytest.mark.parametrize(("workflow_type", "named"), [("inference", False), ("train", False), ("train", True)])
def test_bundle_load_gives_the_network_with_its_weights(
    dist: Path,
    packaged: Path,
    images: torch.Tensor,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
    workflow_type: str,
    named: bool,
) -> None:
    """`train` is MONAI's default: neither needs data nor `bundle_root`, and nothing that is there is downloaded."""
    with another_program(tmp_path):
        network = load(
            NAME,
            bundle_dir=str(dist),
            source="github",
            workflow_type=workflow_type,
            device="cpu",
            args_file={"bundle_root": str(packaged)} if named else None,
        )
        network.eval()
        with torch.no_grad():
            assert torch.equal(network(images), expected[workflow_type])
    assert not list(tmp_path.iterdir())


def test_create_workflow_runs_on_a_users_file(packaged: Path, png: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with another_program(elsewhere):
        workflow = create_workflow(
            config_file=str(packaged / "configs" / "inference.json"),
            workflow_type="inference",
            bundle_root=str(packaged),
            dataset_dir=str(png),
            output_dir=str(tmp_path / "out"),
            device="cpu",
            report=False,
        )
        workflow.run()
        workflow.finalize()
    anomaly = nib.load(tmp_path / "out" / "head" / "head_anomaly.nii.gz").get_fdata()
    assert np.isfinite(anomaly).all()
    assert anomaly.max() > 0
    assert not list(elsewhere.iterdir())


def test_the_workflows_parts_are_there_by_their_names(packaged: Path, tmp_path: Path) -> None:
    """What programs that take a workflow read from it, without running it."""
    with another_program(tmp_path):
        workflow = create_workflow(
            config_file=str(packaged / "configs" / "inference.json"),
            workflow_type="inference",
            bundle_root=str(packaged),
        )
        assert workflow.get_meta_file().endswith("metadata.json")
        assert workflow.version == workflow.parser.get_parsed_content("_meta_::version")
        assert type(workflow.network_def).__name__ == "HeadPhanes"
        assert type(workflow.inferer).__name__ == "HeadInferer"
        assert type(workflow.preprocessing.transforms[0]).__name__ == "CaseLoadImaged"
