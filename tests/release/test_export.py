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
from scripts.method.anomaly_map import OpenedAnomalyMap
from scripts.method.bias_field import BiasField
from scripts.method.coarse_map import CoarseMap
from scripts.method.filling import CoarseFilling
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.method.refinement import Refinement
from scripts.method.relative_map import RelativeMap
from scripts.release.export import FORMATS, about, bundle_network, export_network
from tests.conftest import head_slice
from tests.method.composed import composed

# Whole programs of other processes: nothing here is imported from the project.
RUNNERS = {
    "torchscript": """
import torch
extra = {"extra/metadata.json": ""}
program = torch.jit.load(path, _extra_files=extra)
run = lambda array: program(torch.from_numpy(array)).numpy()
texts = {"metadata.json": extra["extra/metadata.json"].decode()}
""",
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
path, slices, out = sys.argv[1:]
{load}
assert json.loads(texts["metadata.json"])["version"]
images = np.load(slices)
single = np.concatenate([run(images[n : n + 1]) for n in range(2)])
np.savez(out, whole=run(images), single=single, three=run(images[:3]))
"""


def run_without_the_package(file_format: str, path: Path, slices: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """What the exported file makes of the slices: of all at once, of the first two one by one, and of three."""
    np.save(folder / "slices.npy", slices)
    program = RUNNER.format(load=RUNNERS[file_format])
    command = [sys.executable, "-I", "-c", program, str(path), str(folder / "slices.npy"), str(folder / "out.npz")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


def assert_equal_results(results: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """Within 1e-4 in all channels; a slice whose mask differs by a few pixels is the exception.

    Another library sums in another order. Where that takes a pixel over the threshold, mask and inpainting of the slice
    differ; that is rare, and the coarse image of such a slice still agrees.
    """
    assert results["whole"].shape == expected.shape
    for name, count in (("whole", len(expected)), ("single", 2), ("three", 3)):
        result, wanted = results[name], expected[:count]
        np.testing.assert_allclose(result[:, 3], wanted[:, 3], atol=1e-4)  # coarse
        flipped = (result[:, 2] != wanted[:, 2]).sum(axis=(1, 2))
        assert flipped.max() <= 4
        same = flipped == 0
        assert same.sum() >= count - 1
        np.testing.assert_allclose(result[same], wanted[same], atol=1e-4)


@pytest.fixture(scope="module")
def network(slices: np.ndarray) -> torch.nn.Module:
    """The whole method around small networks, whose masks are neither empty nor full."""
    torch.manual_seed(0)
    inpainter = AOTGenerator(channels=(4, 8, 8), blocks=1, dilations=(1, 2), init="kaiming", residual=True)
    autoencoder = SoftIntroVAE(channels=(4, 8, 8), latent_dim=16, stem_stride=2, linear_path=True)
    network = composed(
        autoencoder,
        inpainter,
        coarse_map=CoarseMap(residual="mean"),
        filling=CoarseFilling(1),
        anomaly_map=OpenedAnomalyMap(),
        refinement=Refinement(1),
        bias_field=BiasField(2),
        relative_map=RelativeMap(),
    ).eval()
    images = torch.from_numpy(slices)
    with torch.no_grad():
        network.bias_field.threshold.fill_(0.05)
        network.mask.threshold.copy_(network.coarse(images)[1].quantile(0.97))
        network.refinement.threshold.copy_(network.analyse(images, False, False)[:, 0].quantile(0.97))
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    """Four head phantoms and an empty slice, (5, 1, 128, 128) float32 in [0, 1]."""
    heads = [resize(head_slice(seed) / 255.0, (128, 128), order=1) for seed in range(4)]
    return np.stack([*heads, np.zeros((128, 128))])[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    texts = {"metadata.json": json.dumps({"version": "1"})}
    export_network(network, list(FORMATS), folder, 128, texts)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_without_the_package_an_export_equals_the_network_in_batches_of_any_size(
    network: torch.nn.Module, exported: Path, slices: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    path = exported / f"phanes{FORMATS[file_format][0]}"
    results = run_without_the_package(file_format, path, slices, tmp_path)
    with torch.no_grad():
        expected = network(torch.from_numpy(slices)).numpy()
    assert 0 < expected[:4, 2].mean() < 0.5
    assert_equal_results(results, expected)


def test_what_is_not_a_format_is_named_with_those_that_are(network: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="torchscript, torch_export, onnx, not 'tflite'"):
        export_network(network, ["onnx", "tflite"], tmp_path, 128, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_bundle_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="No config at"):
        bundle_network(tmp_path)


def test_the_bundles_network_comes_with_its_weights_and_texts(scratch_bundle: Path) -> None:
    network, image_size = bundle_network(scratch_bundle)
    assert image_size == 128
    assert not network.training
    texts = about(network, scratch_bundle)
    assert json.loads(texts["channels"]) == ["anomaly", "pseudo_healthy", "mask", "coarse"]
    assert json.loads(texts["calibration.json"])["mask_threshold"] == 0.05
    assert json.loads(texts["metadata.json"])["version"]
