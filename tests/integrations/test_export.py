"""The shipped weights, exported by the command line, on real heads: torch.export and ONNX, in under a minute each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from scripts.release.export import FORMATS, bundle_network
from tests.conftest import BUNDLE, REPOSITORY
from tests.release.test_export import assert_equal_results, run_without_the_package

SECONDS = 60  # of processor time for each format, imports included


@pytest.fixture(scope="module")
def heads(data_root: Path) -> np.ndarray:
    """Two healthy heads, one with a dark spot painted, preprocessed as inference does: (2, 2, 128, 128, 77)."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", "slices": "brain"})
    preprocessing = parser.get_parsed_content("preprocessing")
    paths = sorted((data_root / "ixi_heads" / "val").glob("*.nii.gz"))[:2]
    images = np.stack([np.asarray(preprocessing({"image": str(path)})["image"]) for path in paths])
    images[1, 0, 50:62, 35:47, 35:41] *= 0.5
    return images.astype(np.float32)


@pytest.mark.real_data
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_shipped_network_exported_equals_itself_on_real_heads(
    heads: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    command = [sys.executable, "-m", "scripts", "export", "--format", file_format, "--out", str(tmp_path)]
    before = os.times()
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert after.children_user + after.children_system - before.children_user - before.children_system < SECONDS
    results = run_without_the_package(file_format, tmp_path / f"phanes{FORMATS[file_format][0]}", heads, tmp_path)
    assert_equal_results(results, bundle_network(BUNDLE), heads)
