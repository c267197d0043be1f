"""The shipped weights, exported by the command line, on real slices: TorchScript, torch.export and ONNX.

The core tests do the same with small networks; tracing the real ones takes a minute or two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from scripts.pipeline.cases import slice_files
from scripts.release.export import FORMATS, bundle_network
from tests.conftest import BUNDLE, REPOSITORY
from tests.release.test_export import assert_equal_results, run_without_the_package


@pytest.fixture(scope="module")
def slices(data_root: Path) -> np.ndarray:
    """Eight healthy slices, (9, 1, 128, 128), and one of them darkened on one side: a mask that is not scattered."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu"})
    transform = Compose([parser.get_parsed_content("preprocessing"), *parser.get_parsed_content("to_slice")])
    items = slice_files(str(data_root / "ixi_midaxial"), "val")[:8]
    images = torch.stack([torch.as_tensor(transform(item)["image"]) for item in items])
    images = torch.cat([images, images[:1]])
    images[-1, :, 50:75, 35:55] *= 0.4
    return images.numpy().astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "scripts", "export", "--format", ",".join(FORMATS), "--out", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.real_data
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_shipped_network_exported_equals_itself_on_real_slices(
    exported: Path, slices: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    path = exported / f"phanes{FORMATS[file_format][0]}"
    results = run_without_the_package(file_format, path, slices, tmp_path)
    network, _ = bundle_network(BUNDLE)
    with torch.no_grad():
        assert_equal_results(results, network(torch.from_numpy(slices)).numpy())
