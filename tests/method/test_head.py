"""PHANES for whole heads, with either network: what it returns, and what it must not depend on."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from scripts.method.head import HeadPhanes, VolumeMask
from scripts.method.networks.linear import LinearAutoencoder
from scripts.method.volume_map import local_contrast, relative_map
from scripts.training.linear import train_linear
from tests.method.networks.test_linear import HEIGHTS, brain_mask, random_heads


@pytest.fixture(scope="module")
def method():
    brain = brain_mask()
    network = LinearAutoencoder(brain, HEIGHTS, components=6)
    train_linear(network, random_heads(40, brain), brain)
    method = HeadPhanes(network, brain, HEIGHTS)
    method.mask.threshold.fill_(2.0)
    return method.eval()


def volumes(heads: torch.Tensor) -> torch.Tensor:
    """(N, H, W, D) -> (N, 2, H, W, D)."""
    heads = heads[:, None]
    return torch.cat([heads, torch.tensor(HEIGHTS).expand_as(heads)], dim=1)


@pytest.fixture(scope="module")
def ill():
    """Two heads; the second has a dark lesion of 4 x 4 x 3 voxels."""
    heads = random_heads(2, brain_mask(), seed=12)
    heads[1, 9:13, 10:14, 1:4] = 0.15
    return volumes(heads)


def test_the_lesion_is_found_filled_and_marked(method, ill):
    anomaly, healthy, mask, coarse = method(ill)[1]
    original = random_heads(2, brain_mask(), seed=12)[1]
    lesion = torch.zeros_like(mask)
    lesion[9:13, 10:14, 1:4] = 1
    assert anomaly[lesion > 0].min() > 5 * anomaly[lesion == 0].quantile(0.99)
    assert mask[lesion > 0].min() == 1
    assert (healthy - original)[lesion > 0].abs().mean() < 0.04  # the lesion is off by 0.35
    assert (coarse - original)[lesion > 0].abs().mean() < 0.04


def test_outside_of_the_mask_the_image_is_untouched_and_outside_of_the_brain_the_map_is_0(method, ill):
    anomaly, healthy, mask, _ = method(ill).unbind(1)
    assert torch.equal(healthy[mask == 0], ill[:, 0][mask == 0])
    assert anomaly[:, ~brain_mask()].abs().max() == 0
    assert mask[:, ~brain_mask()].abs().max() == 0
    assert anomaly.min() >= 0


def test_the_anomaly_map_is_that_of_scipy_in_double_precision(method, ill):
    """s = sqrt((s_c + s_ph) S), where S is s_c blurred by two voxels."""
    coarse, coarse_map = method.coarse(ill)
    mask = method.hidden(ill, coarse_map)
    filled_map = method.map_of(ill, torch.where(mask > 0, method.fill(ill, mask), coarse))
    for found, before, after in zip(method(ill)[:, 0], coarse_map[:, 0], filled_map[:, 0], strict=True):
        nearby = gaussian_filter(before.double().numpy(), 2.0)
        expected = np.sqrt((before + after).double().numpy() * nearby)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.max() > 1  # the last head has the lesion


def test_with_a_given_mask_that_is_filled_and_the_map_is_0_outside(method, ill):
    """Given the method's own mask, the results are its own; what the mask covers is not looked at."""
    expected = method(ill)
    anomaly, healthy = method.forward_with_mask(ill, expected[:, 2:3])
    torch.testing.assert_close(anomaly, expected[:, :1] * expected[:, 2:3])
    torch.testing.assert_close(healthy, expected[:, 1:2])
    mask = torch.zeros_like(ill[:, :1])
    mask[:, :, 9:13, 10:14, 1:4] = 1
    other = ill.clone()
    other[:, :1] = torch.where(mask > 0, 0.7, other[:, :1])
    results = [method.forward_with_mask(x, mask) for x in (ill, other)]
    for (anomaly, healthy), x in zip(results, (ill, other), strict=True):
        assert anomaly[mask == 0].abs().max() == 0
        assert torch.equal(healthy[mask == 0], x[:, :1][mask == 0])
    torch.testing.assert_close(results[0][1][mask > 0], results[1][1][mask > 0])


def test_a_batch_equals_its_heads(method, ill):
    alone = torch.cat([method(ill[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(method(ill), alone, atol=1e-4, rtol=1e-4)


def test_a_single_slice_is_a_volume_of_one_level(method, ill):
    x = ill[:, :, :, :, 2]
    torch.testing.assert_close(method(x), method(x[..., None])[..., 0])
    assert method(x).shape == (2, 4, 24, 24)


def test_levels_find_their_place_in_any_number(method, ill):
    """Two levels of a head are analysed with the brain of these two levels."""
    result = method(ill[..., 3:])
    assert result.shape[-1] == 2
    assert result[:, 0][:, ~brain_mask()[..., 3:]].abs().max() == 0


class TwoNetworks(torch.nn.Module):
    """A network beside one that draws another slice."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        drawn = self.network(x)
        return torch.cat([drawn, (drawn + self.change).clamp(0, 1)], dim=1)

    def fill(self, x, hole):
        drawn = self.network.fill(x, hole)
        return torch.cat([drawn, (drawn + self.change).clamp(0, 1)], dim=1)


def test_maps_of_two_networks_add_up_and_their_images_are_averaged(method, ill):
    one, two = (HeadPhanes(TwoNetworks(method.network, by), brain_mask(), HEIGHTS) for by in (0.0, 0.1))
    alone, _ = method.coarse(ill)
    twice, twice_map = one.coarse(ill)
    assert twice.shape == (2, 2, 24, 24, ill.shape[-1])
    torch.testing.assert_close(twice, alone.expand_as(twice))
    torch.testing.assert_close(twice_map, 2 * method.coarse(ill)[1])
    both, both_map = two.coarse(ill)
    torch.testing.assert_close(both_map, two.map_of(ill, both[:, :1]) + two.map_of(ill, both[:, 1:]))
    two.mask.threshold.fill_(2.0)
    torch.testing.assert_close(two(ill)[:, 3:], both.mean(dim=1, keepdim=True))


def test_a_map_of_the_brains_part_alone_equals_that_of_the_whole_field(method, ill):
    """To the bit. The brain lies off the border, so that there is something to leave out."""
    brain = np.zeros((40, 36, len(HEIGHTS)))
    brain[14:31, 13:20] = 1
    field = HeadPhanes(method.network, brain, HEIGHTS)
    volume = torch.rand(1, 2, 40, 36, len(HEIGHTS), generator=torch.Generator().manual_seed(5))
    volume[:, 1] = torch.tensor(HEIGHTS)
    drawn = volume[:, :1].flip(2)
    expected = relative_map(
        2 * volume[:, :1], 2 * drawn, torch.tensor(brain)[None, None], local_contrast(2 * volume[:, :1])
    )
    assert torch.equal(field.map_of(volume, drawn), expected)


def test_weights_of_another_network_are_refused_also_when_the_host_is_not_strict(method):
    state = {name: value for name, value in method.state_dict().items() if not name.endswith("components")}
    with pytest.raises(RuntimeError, match=r"of another network: they do not hold network\.components"):
        HeadPhanes(LinearAutoencoder(brain_mask(), HEIGHTS, components=6), brain_mask(), HEIGHTS).load_state_dict(
            state, strict=False
        )


def test_without_calibration_map_and_mask_are_nan(ill):
    brain = brain_mask()
    network = LinearAutoencoder(brain, HEIGHTS, components=6)
    train_linear(network, random_heads(10, brain), brain)
    result = HeadPhanes(network, brain, HEIGHTS)(ill)
    assert result[:, 0].isnan().all()
    assert result[:, 2].isnan().all()


def test_the_mask_grows_by_two_voxels():
    mask = VolumeMask()
    mask.threshold.fill_(0.5)
    maps = torch.zeros(1, 1, 15, 15, 15)
    maps[..., 5:10, 5:10, 5:10] = 1
    expected = torch.zeros_like(maps)
    expected[..., 3:12, 3:12, 3:12] = 1
    grown = mask(maps)
    assert grown.sum() >= (9 - 2) ** 3
    assert (grown * (1 - expected)).sum() == 0


def test_the_state_dict_holds_network_and_threshold_only(method):
    names = set(method.state_dict())
    assert names == {f"network.{name}" for name in method.network.state_dict()} | {"mask.threshold"}


def test_scripted_and_exported_programs_equal_the_method(method, ill):
    with torch.no_grad():
        expected = method(ill)
        scripted = torch.jit.script(method)(ill)
        exported = torch.export.export(method, (ill,)).module()(ill)
    # Of the largest value: a root near 0 makes rounding large.
    tolerance = {"atol": 1e-4 * float(expected.max()), "rtol": 1e-4}
    torch.testing.assert_close(scripted, expected, **tolerance)
    torch.testing.assert_close(exported, expected, **tolerance)


def test_an_exported_program_takes_any_number_of_heads_and_levels(method, ill):
    """As `scripts.release.export` traces the bundle's network."""
    example = torch.cat([ill, ill[..., -1:]], dim=-1)
    shapes = {0: torch.export.Dim.DYNAMIC, 4: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(method, (example,), dynamic_shapes=(shapes,)).module()
        expected = method(example)
        tolerance = {"atol": 1e-4 * float(expected.max()), "rtol": 1e-4}
        torch.testing.assert_close(program(ill[:1]), method(ill[:1]), **tolerance)
        torch.testing.assert_close(program(example), expected, **tolerance)


def test_onnx_equals_the_method(method, ill, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "head.onnx"
    with torch.no_grad():
        expected = method(ill)
        torch.onnx.export(method, (ill,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: ill.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), expected, atol=1e-3, rtol=1e-3)
