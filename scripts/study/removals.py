"""PHANES with parts taken out, for rows of tables: what does each part carry?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..method.filters import gaussian_filter
from ..method.head import HeadPhanes

RESTORATION, LINEAR, FILLING, SIMILARITY = "restoration network", "linear network", "filling", "S"
SECOND_STAGE = "second stage"  # mask, filling and S: the coarse map remains
PARTS = (RESTORATION, LINEAR, FILLING, SIMILARITY, SECOND_STAGE)

# The rows of a table, by their keys: what is taken out.
REMOVALS: dict[str, tuple[str, ...]] = {
    "without_restoration": (RESTORATION,),
    "without_linear": (LINEAR,),
    "without_filling": (FILLING,),
    "without_s": (SIMILARITY,),
    "coarse": (SECOND_STAGE,),
    "restoration_plain": (LINEAR, SECOND_STAGE),
}


def row_label(parts: Sequence[str]) -> str:
    """The name of a row, such as "PHANES without S"."""
    return f"PHANES without {' and '.join(parts)}" if parts else "PHANES"


def outputs_without(method: HeadPhanes, image: Tensor, parts: Sequence[str] = ()) -> Tensor:
    """What the method returns when parts of it are taken out.

    The mask's threshold is made for the sum of two networks' maps, so the map of one network counts twice.

    Args:
        method: with `BothNetworks`, where a network is taken out.
        image: (B, 2, H, W, D) or (B, 2, H, W), as the method takes it.
        parts: some of `PARTS`; without any it is the method itself.

    Returns:
        (B, 4, H, W, D) or (B, 4, H, W): anomaly map, pseudo-healthy image, mask, coarse reconstruction.

    Raises:
        ValueError: an unknown part.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"PHANES has no part '{unknown.pop()}'; its parts are {', '.join(PARTS)}")
    volume = image if image.dim() == 5 else image[..., None]
    whole = method.network
    if LINEAR in parts:
        method.network = whole.get_submodule("restoration")
    elif RESTORATION in parts:
        method.network = whole.get_submodule("linear")
    try:
        contrast = method.contrast(volume)
        coarse, coarse_map = method.coarse(volume, contrast)
        drawn = coarse.mean(dim=1, keepdim=True)
        if SECOND_STAGE in parts:
            found = [coarse_map, drawn, torch.zeros_like(drawn), drawn]
        else:
            counted = coarse_map * (2 / coarse.shape[1]) if method.network is not whole else coarse_map
            mask = method.hidden(volume, counted) * float(FILLING not in parts)
            anomaly, pseudo_healthy = method.complete(volume, mask, coarse, coarse_map, contrast)
            if SIMILARITY in parts:
                around = gaussian_filter(coarse_map, method.neighbourhood)
                anomaly = anomaly.square() / around.clamp(min=1e-12)
            found = [anomaly, pseudo_healthy, mask, drawn]
    finally:
        method.network = whole
    outputs = torch.cat(found, dim=1)
    return outputs if image.dim() == 5 else outputs[..., 0]
