"""The shipped weights give one result: in any batch, and again to the last bit.

Likewise of whole runs: again (`test_inference.py`), killed and resumed (`test_interruptions.py`), on several processes
(`test_processes.py`); and of the registration (`test_registration.py`).
"""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.conftest import BUNDLE, head_slice


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The network of the config with the bundle's own weights."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser["bundle_root"] = str(BUNDLE)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    return network.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """(5, 2, 128, 128): head phantoms in [0, 1], and the height of the paper's level."""
    slices = [torch.from_numpy(head_slice(seed)).float()[None, None] / 255 for seed in range(5)]
    heads = torch.cat([interpolate(image, (128, 128), mode="bilinear") for image in slices])
    return torch.cat([heads, torch.full_like(heads, 23.0)], dim=1)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(network: nn.Module, images: Tensor) -> None:
    alone = torch.cat([network(image) for image in images.split(1)])
    assert alone[:, 0].max() > 0.01, "nothing to compare"
    for size in (2, 5):
        together = torch.cat([network(batch) for batch in images.split(size)])
        assert (together - alone).abs().max() < 1e-5 * alone.max()


@torch.no_grad()
def test_the_same_again_to_the_last_bit(network: nn.Module, images: Tensor) -> None:
    assert torch.equal(network(images), network(images.clone()))
