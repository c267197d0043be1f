"""The network of whole heads, by the name that `--method` gives."""

from collections.abc import Sequence

from numpy.typing import ArrayLike
from torch import nn

from ...common.errors import PhanesInputError
from .both import BothNetworks
from .linear import LinearAutoencoder
from .restoration import RestorationNetwork


def network_of(method: str, brain: ArrayLike, heights: Sequence[float]) -> nn.Module:
    """The network of both stages, without its weights.

    Args:
        method: `both` for the trained restoration network and the linear one; `linear` for the closed form alone.
        brain: (H, W, D) the template's brain at each level, > 0 inside.
        heights: MNI z of each level, mm, evenly spaced, rising.

    Raises:
        PhanesInputError: there is no such method.
    """
    if method == "both":
        return BothNetworks(RestorationNetwork(heights), LinearAutoencoder(brain, heights))
    if method == "linear":
        return LinearAutoencoder(brain, heights)
    raise PhanesInputError(f"method is {method!r}: give both or linear.")
