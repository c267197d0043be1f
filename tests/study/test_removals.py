"""PHANES with parts taken out: each row against the steps of the method itself."""

import pytest
import torch

from scripts.method.head import HeadPhanes
from scripts.method.networks.both import BothNetworks
from scripts.study import removals
from scripts.study.removals import outputs_without
from tests.method.networks.test_linear import HEIGHTS, brain_mask, network, random_heads  # noqa: F401 - a fixture


class Darker(torch.nn.Module):
    """Draws what it sees, a tenth darker."""

    def forward(self, x, hole=None):
        return 0.9 * x[:, :1]

    fill = forward


@pytest.fixture
def method(network):  # noqa: F811
    made = HeadPhanes(BothNetworks(Darker(), network), brain_mask(), HEIGHTS).eval()  # type: ignore[arg-type]
    made.mask.threshold.fill_(4.0)
    return made


@pytest.fixture
def head():
    x = random_heads(1, brain_mask(), seed=3)[0]
    x[8:12, 10:14, 1:4] *= 0.5
    return torch.stack([x, torch.tensor(HEIGHTS).expand_as(x)])[None]


def alone(part, threshold):
    made = HeadPhanes(part, brain_mask(), HEIGHTS).eval()
    made.mask.threshold.fill_(threshold)
    return made


@torch.no_grad()
def test_nothing_taken_out_is_the_method(method, head):
    assert torch.equal(outputs_without(method, head), method(head))
    assert torch.equal(outputs_without(method, head[..., 2]), method(head[..., 2]))


@torch.no_grad()
@pytest.mark.parametrize(("part", "left"), [(removals.LINEAR, "restoration"), (removals.RESTORATION, "linear")])
def test_one_network_is_the_method_of_that_network_at_half_the_threshold(method, head, part, left):
    own = method.network
    found = outputs_without(method, head, [part])
    assert method.network is own
    torch.testing.assert_close(found, alone(getattr(own, left), 2.0)(head))
    assert found[:, 2].any()


@torch.no_grad()
def test_without_the_second_stage_the_coarse_map_remains(method, head):
    found = outputs_without(method, head, [removals.LINEAR, removals.SECOND_STAGE])
    coarse, coarse_map = alone(method.network.restoration, 1.0).coarse(head)
    torch.testing.assert_close(found, torch.cat([coarse_map, coarse, 0 * coarse, coarse], dim=1))


@torch.no_grad()
def test_without_filling_the_mask_is_empty_and_without_s_the_sum_of_both_maps_remains(method, head):
    coarse, coarse_map = method.coarse(head)
    unfilled = outputs_without(method, head, [removals.FILLING])
    assert not unfilled[:, 2].any()
    assert torch.equal(unfilled[:, 1], head[:, 0])
    mask = method.mask(coarse_map) * method.inside(head)
    drawn = torch.where(mask > 0, method.fill(head, mask), coarse)
    total = (coarse_map + method.map_of(head, drawn)) * method.inside(head)
    torch.testing.assert_close(outputs_without(method, head, [removals.SIMILARITY])[:, :1], total, rtol=1e-3, atol=1e-4)


def test_an_unknown_part_is_named_and_the_method_stays_whole(method, head):
    with pytest.raises(ValueError, match="no part 'inpainter'"):
        outputs_without(method, head, ["inpainter"])
    assert isinstance(method.network, BothNetworks)
