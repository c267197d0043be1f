"""Fixtures for all tests: real images where they are at hand, phantoms made by code, a bundle with scratch weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from scipy.ndimage import gaussian_filter

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "bundle"
DATA = Path(os.environ.get("PHANES_DATA", "../shared/data"))
DATA = DATA if DATA.is_absolute() else REPOSITORY / DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the real-data tests where the images are not."""
    if DATA.is_dir():
        return
    skip = pytest.mark.skip(reason=f"PHANES_DATA: no images at {DATA}")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real images; only for tests marked `real_data`."""
    if not DATA.is_dir():
        pytest.skip(f"PHANES_DATA: no images at {DATA}")
    return DATA


def head_slice(seed: int = 0, shape: tuple[int, int] = (233, 197)) -> np.ndarray:
    """An axial head phantom, uint8, anterior up: scalp, dark skull, textured brain with two ventricles, one darker."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = (y - shape[0] / 2 + 2) / 98, (x - shape[1] / 2) / 80
    radius = np.hypot(x, y)
    texture = gaussian_filter(rng.standard_normal(shape), 3.0)
    image = np.where(radius < 1.0, 210.0, 0.0)
    image = np.where(radius < 0.93, 25.0, image)
    image = np.where(radius < 0.84, 165.0 + 120.0 * texture, image)
    for side, value in ((-1, 45.0), (1, 60.0)):
        ventricle = ((x - side * 0.12) / 0.09) ** 2 + ((y - 0.02) / 0.28) ** 2 < 1
        image = np.where(ventricle, value, image)
    return gaussian_filter(image, 0.7).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def phantom() -> np.ndarray:
    """One head slice (233, 197), rows anterior to posterior, columns left to right."""
    return head_slice()


@pytest.fixture
def png(tmp_path: Path, phantom: np.ndarray) -> Path:
    """The phantom as a PNG."""
    path = tmp_path / "head.png"
    Image.fromarray(phantom).save(path)
    return path


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def ras_of_slice(phantom: np.ndarray) -> np.ndarray:
    """(rows, columns), anterior up -> (X, Y, 1) in RAS+."""
    return np.ascontiguousarray(phantom[::-1].T[..., None])


@pytest.fixture(scope="session")
def scratch_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the project's configs and code, and with weights that were never trained but are whole."""
    root = tmp_path_factory.mktemp("bundle")
    (root / "configs").symlink_to(BUNDLE / "configs")
    (root / "scripts").symlink_to(REPOSITORY / "scripts")
    (root / "models").mkdir()
    weights: dict[str, dict[str, torch.Tensor]] = {"model.pt": {}, "mid_axial.pt": {}}
    for overlay in ("", "mid_axial.json", "paper.json"):
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / "configs" / name) for name in ("inference.json", overlay) if name])
        parser["bundle_root"] = str(root)
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
        network.mask.threshold.fill_(0.05)
        if overlay != "paper.json":
            scratch_restoration(network.network.restoration)
            scratch_linear(network.network.linear, parser["levels_mm"] if overlay else None)
        weights["mid_axial.pt" if overlay == "mid_axial.json" else "model.pt"] |= network.state_dict()
    for name, state in weights.items():
        torch.save(state, root / "models" / name)
    write_calibration(root)
    return root


LINEAR_LABEL = 0.03  # label threshold of the scratch linear method


@pytest.fixture(scope="session")
def linear_bundle(scratch_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scratch bundle with weights of the linear method, fitted to three heads of noise."""
    from scripts.common.files import sha256_of_file
    from scripts.method.head import HeadPhanes
    from scripts.method.networks.linear import LinearAutoencoder
    from scripts.space.levels import LEVELS_MM, brain_of_levels

    root = tmp_path_factory.mktemp("linear_bundle")
    for name in ("configs", "scripts"):
        (root / name).symlink_to(scratch_bundle / name)
    shutil.copytree(scratch_bundle / "models", root / "models")
    brain = torch.from_numpy(brain_of_levels().copy())
    method = HeadPhanes(LinearAutoencoder(brain, LEVELS_MM), brain, LEVELS_MM)
    scratch_linear(method.network)
    method.mask.threshold.fill_(3.0)
    torch.save(method.state_dict(), root / "models" / "linear.pt")
    record = {"label_threshold": LINEAR_LABEL, "weights_sha256": sha256_of_file(root / "models" / "linear.pt")}
    (root / "models" / "linear.json").write_text(json.dumps(record))
    return root


def scratch_linear(network: Any, levels: Sequence[float] | None = None) -> None:
    """Fitted to three heads of noise, of all levels or of some."""
    from scripts.space.levels import LEVELS_MM, brain_of_levels
    from scripts.training.linear import train_linear

    generator = torch.Generator().manual_seed(0)
    brain = torch.from_numpy(brain_of_levels(levels or LEVELS_MM).copy())
    heads = (0.5 + 0.05 * torch.randn(brain.shape, generator=generator) for _ in range(3))
    train_linear(network, heads, brain)


def scratch_restoration(network: Any) -> None:
    """Weights that change every slice a little, around a mean head that is blank."""
    network.describe_levels(torch.randint(80, 121, (4, 128, 128, network.levels), dtype=torch.uint8), 100.0)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    torch.nn.init.constant_(network.head.bias, 0.1)


def write_calibration(root: Path, **changes: Any) -> None:
    """Calibration records that fit the weights of a scratch bundle."""
    from scripts.common.files import sha256_of_file

    records = {"calibration": "model", "paper": "model", "mid_axial": "mid_axial"}
    for name, weights in records.items():
        if (root / "models" / f"{weights}.pt").is_file():
            checksum = sha256_of_file(root / "models" / f"{weights}.pt")
            record = {"label_threshold": 0.02, "mask_threshold": 0.05, "weights_sha256": checksum, **changes}
            (root / "models" / f"{name}.json").write_text(json.dumps(record))


def run_inference(
    bundle: Path, dataset_dir: Path, output_dir: Path, overlays: Sequence[str] = (), **overrides: Any
) -> ConfigWorkflow:
    """`monai.bundle run inference` within this process."""
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in ("inference.json", *overlays)],
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        device="cpu",
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow
