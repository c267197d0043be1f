"""inference.json's whole heads: levels, network and weights."""

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.space.levels import GRID, LEVELS_MM
from tests.conftest import BUNDLE


@pytest.fixture(scope="module")
def config():
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser["bundle_root"] = str(BUNDLE)
    return parser


@pytest.fixture(scope="module")
def network(config):
    network = config.get_parsed_content("network_def")
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    return network.eval()


def head(levels: slice = slice(None)) -> torch.Tensor:
    """The mean of the training heads at some levels, and their heights: (1, 2, 128, 128, D)."""
    weights = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    image = torch.full((1, 1, *GRID), 0.0)
    image[0, 0, 8:120, 16:112] = weights["network.restoration.mean"][:, 0].permute(1, 2, 0).float() / 2
    return torch.cat([image, torch.tensor(LEVELS_MM).expand_as(image)], dim=1)[..., levels]


def test_the_levels_are_those_of_the_grid(config):
    assert tuple(float(z) for z in config.get_parsed_content("levels_mm")) == LEVELS_MM


def test_a_painted_lesion_is_found_and_filled(network):
    """A dark ball in the white matter of the mean head: the map's peak lies in it, and the filling is near the mean."""
    healthy = head(slice(45, 60))
    ill = healthy.clone()
    ill[0, 0, 50:57, 46:53, 4:9] *= 0.5
    with torch.no_grad():
        anomaly, filled, mask, _ = network(ill)[0]
    lesion = torch.zeros_like(mask)
    lesion[50:57, 46:53, 4:9] = 1
    assert lesion.flatten()[anomaly.argmax()] == 1
    assert mask[lesion > 0].mean() > 0.9
    left = (filled - healthy[0, 0])[lesion > 0].abs().mean() / (ill - healthy)[0, 0][lesion > 0].abs().mean()
    assert left < 0.3


@pytest.mark.parametrize("levels", [1, 5])
def test_any_number_of_levels_at_any_height(network, levels):
    x = torch.rand(1, 2, 128, 128, levels)
    with torch.no_grad():
        assert network(x).shape == (1, 4, 128, 128, levels)
