"""Exported programs give the network's results in a process that has never heard of this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.transform import resize

from scripts.common.errors import PhanesInputError
from scripts.method.head import HeadPhanes
from scripts.method.networks.both import BothNetworks
from scripts.method.networks.linear import LinearAutoencoder
from scripts.method.networks.restoration import RestorationNetwork
from scripts.release.export import FORMATS, about, bundle_network, example_of, export_network
from tests.conftest import BUNDLE, head_slice

# Whole programs of other processes: nothing here is imported from the project.
RUNNERS = {
    "torch_export": """
import torch
texts = {"metadata.json": ""}
program = torch.export.load(path, extra_files=texts).module()
run = lambda array: program(torch.from_numpy(array)).numpy()
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(path)
run = lambda array: session.run(None, {"image": array})[0]
texts = session.get_modelmeta().custom_metadata_map
""",
}
RUNNER = """
import importlib.util, json, sys
import numpy as np
assert importlib.util.find_spec("scripts") is None
path, heads, out = sys.argv[1:]
{load}
assert json.loads(texts["metadata.json"])["version"]
images = np.load(heads)
lower = run(images[:1, ..., :5])
slice = run(np.repeat(images[:1, ..., 3:4], 5, axis=4))[..., :1]
np.savez(out, whole=run(images), head=run(images[:1]), lower=lower, slice=slice)
"""


def run_without_the_package(file_format: str, path: Path, heads: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """What the exported file makes of all heads, of the first, of its lower levels and of its fourth slice."""
    np.save(folder / "heads.npy", heads)
    program = RUNNER.format(load=RUNNERS[file_format])
    command = [sys.executable, "-I", "-c", program, str(path), str(folder / "heads.npy"), str(folder / "out.npz")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


def assert_equal_results(results: dict[str, np.ndarray], network: torch.nn.Module, heads: np.ndarray) -> None:
    """Within 1e-4, of the largest anomaly where that is more than 1; the mask has to be the same."""
    given = {"whole": heads, "head": heads[:1], "lower": heads[:1, ..., :5], "slice": heads[:1, ..., 3:4]}
    for name, images in given.items():
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        assert results[name].shape == expected.shape
        for channel, largest in enumerate(np.maximum(expected.max(axis=(0, 2, 3, 4)), 1.0)):
            np.testing.assert_allclose(
                results[name][:, channel],
                expected[:, channel],
                rtol=0,
                atol=1e-4 * largest,
                err_msg=name,
            )


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    """Two head phantoms of seven levels and their heights, (2, 2, 128, 128, 7) float32."""
    slices = [resize(head_slice(seed) / 255.0, (128, 128), order=1) for seed in range(14)]
    images = np.stack(slices, axis=-1).reshape(128, 128, 2, 7).transpose(2, 0, 1, 3)
    heights = np.broadcast_to(np.arange(-6.0, 8.0, 2.0), images.shape)
    return np.stack([images, heights], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def network(heads: np.ndarray) -> torch.nn.Module:
    """The whole method around a small network, whose mask is neither empty nor full."""
    torch.manual_seed(0)
    levels = [float(z) for z in range(-10, 12, 2)]
    restoration = RestorationNetwork(levels, widths=(4, 8, 8))
    torch.nn.init.normal_(restoration.head.weight, std=0.05)
    restoration.describe_levels(torch.rand(3, 128, 128, len(levels)), 0.5)
    brain = np.hypot(*np.mgrid[-1:1:128j, -1:1:128j])[..., None].repeat(len(levels), 2) < 0.7
    linear = LinearAutoencoder(brain, levels, components=4)
    linear.mean.fill_(1.0)
    torch.nn.init.normal_(linear.components, std=0.1)
    for level, part in enumerate(linear.components.float().split(linear.counts.tolist())):
        linear.variances[level] = part.square().sum(dim=0)
    network = HeadPhanes(BothNetworks(restoration, linear), brain, levels).eval().requires_grad_(False)
    images = torch.from_numpy(heads)
    network.mask.threshold.copy_(network.mask.smooth(network.coarse(images)[1]).quantile(0.97))
    return network


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    metadata = (BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8")
    export_network(network, list(FORMATS), folder, example_of(json.loads(metadata)), {"metadata.json": metadata})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_without_the_package_an_export_equals_the_network_for_any_heads_and_levels(
    network: torch.nn.Module, exported: Path, heads: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    results = run_without_the_package(file_format, exported / f"phanes{FORMATS[file_format][0]}", heads, tmp_path)
    assert 0 < results["whole"][:, 2].mean() < 0.5
    assert_equal_results(results, network, heads)


def test_a_program_is_small(exported: Path) -> None:
    """Of loops only the linear network's few products are unrolled: writing the file takes seconds."""
    import onnx

    assert len(onnx.load(exported / "phanes.onnx").graph.node) < 1800


def test_what_is_not_a_format_is_named_with_those_that_are(network: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="format is 'tflite': choose among torch_export, onnx"):
        export_network(network, ["onnx", "tflite"], tmp_path, torch.zeros(2, 2, 128, 128, 6), {})
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_bundle_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="No config at"):
        bundle_network(tmp_path)


def test_the_bundles_network_comes_with_its_weights_and_texts() -> None:
    assert not bundle_network(BUNDLE).training
    texts = about(BUNDLE)
    assert json.loads(texts["channels"]) == ["anomaly", "pseudo_healthy", "mask", "coarse"]
    assert json.loads(texts["calibration.json"])["weights_sha256"]
    assert json.loads(texts["metadata.json"])["version"]
