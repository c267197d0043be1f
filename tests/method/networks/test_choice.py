"""The method's name says which network is built."""

import pytest

from scripts.common.errors import PhanesInputError
from scripts.method.networks.both import BothNetworks
from scripts.method.networks.choice import network_of
from scripts.method.networks.linear import LinearAutoencoder
from tests.method.networks.test_linear import HEIGHTS, brain_mask


@pytest.mark.parametrize(("method", "kind"), [("both", BothNetworks), ("linear", LinearAutoencoder)])
def test_each_name_has_its_network(method, kind):
    assert type(network_of(method, brain_mask(), HEIGHTS)) is kind


@pytest.mark.parametrize("method", ["Linear", "restoration", "", None])
def test_an_unknown_method_is_refused_in_one_sentence(method):
    with pytest.raises(PhanesInputError, match=r"^method is .*: give both or linear\.$"):
        network_of(method, brain_mask(), HEIGHTS)
