"""PHANES as the paper has it: slices in; anomaly map, pseudo-healthy image, mask and coarse reconstruction out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .anomaly_map import AnomalyMap
from .coarse_map import CoarseMap
from .filling import ConstantFilling, compose_pseudo_healthy
from .mask_rule import CalibratedMask, ScanQuantileMask
from .networks.aot_gan import AOTGenerator
from .networks.perceptual import SpatialLPIPS
from .networks.soft_intro_vae import SoftIntroVAE
from .slices import fold, unfold

CHANNELS = ("anomaly", "pseudo_healthy", "mask", "coarse")  # of the output, in this order
# The shipped model.pt holds the weights of `HeadPhanes` and of `Phanes`. Their names begin so. The mask's threshold has
# a name of its own in files, because both networks have one.
MASK_THRESHOLD = "mask_threshold"
OF_HEADS = ("network.", "mask.threshold")
OF_SLICES = ("autoencoder.", "inpainter.", "perceptual.", MASK_THRESHOLD)


def leave_out(state_dict: dict[str, Any], prefix: str, names: tuple[str, ...]) -> None:
    """Delete from a state dict, in place, what another network owns: `prefix` + one of `names` begins its names."""
    others = tuple(prefix + name for name in names)
    for name in [name for name in state_dict if name.startswith(others)]:
        del state_dict[name]


def with_head(image: Tensor, head: Tensor) -> Tensor:
    """The image (B, C, ...) with another head (B, 1, ...) as its channel 0."""
    return head if image.shape[1] == 1 else torch.cat([head, image[:, 1:]], dim=1)


def _with_names_of_files(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Hook of `Phanes.state_dict`: give the mask's threshold its name in files."""
    if prefix + "mask.threshold" in state:
        state[prefix + MASK_THRESHOLD] = state.pop(prefix + "mask.threshold")


class Phanes(nn.Module):
    """Pseudo-healthy generative networks (MICCAI 2023), Fig. 2.

    x is a slice, E and D the autoencoder's halves, G the inpainter, S the perceptual distance:

    1. coarse reconstruction: x_c = D(E(x))
    2. `coarse_map`, eq. (3): norm95(|eq(x_c) - eq(x)|) S(eq(x_c), eq(x)). `mask`: m = 1 where it exceeds a threshold
    3. `filling` fills the hole, where m is 1, for the inpainter to see. x_ph = x (1 - m) + G(filling, m) m
    4. `anomaly_map`, eq. (4): s = |x_ph - x| S(x_ph, x)

    The mask's `threshold` is a buffer that `calibrate` fills. As long as it is NaN, anomaly map and mask are NaN: a
    network without its weights cannot pass for a healthy finding.

    Args:
        autoencoder: stage 1.
        inpainter: stage 2.
        perceptual: S.
        coarse_map: equation (3) before its threshold.
        mask: `CalibratedMask`, or the published code's `ScanQuantileMask`.
        filling: what the inpainter sees in the hole.
        anomaly_map: equation (4).
    """

    def __init__(
        self,
        autoencoder: SoftIntroVAE,
        inpainter: AOTGenerator,
        perceptual: SpatialLPIPS,
        coarse_map: CoarseMap,
        mask: CalibratedMask | ScanQuantileMask,
        filling: ConstantFilling,
        anomaly_map: AnomalyMap,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.inpainter = inpainter
        self.perceptual = perceptual
        self.coarse_map = coarse_map
        self.mask = mask
        self.filling = filling
        self.anomaly_map = anomaly_map
        self.register_state_dict_post_hook(_with_names_of_files)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster convolutions

    def forward(self, image: Tensor) -> Tensor:
        """The whole method.

        Args:
            image: (B, C, H, W, D), or single slices (B, C, H, W). Channel 0 is the head, in [0, 1]. Others, such as
                the levels' heights, are ignored: this network knows one level.

        Returns:
            (B, 4, H, W, D) or (B, 4, H, W), in the order of `CHANNELS`: anomaly map s, >= 0; pseudo-healthy image
            x_ph; mask m; coarse reconstruction x_c.
        """
        x = fold(image)[:, :1]
        coarse, coarse_map = self.coarse(x)
        mask = self.mask(coarse_map)
        anomaly, pseudo_healthy = self.forward_with_mask(x, mask)
        # A NaN threshold compares as False, so that nothing is replaced; carry it into the map.
        return unfold(torch.cat([anomaly + 0.0 * mask, pseudo_healthy, mask, coarse], dim=1), image)

    def coarse(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Stage 1: slices (N, 1, H, W) -> coarse reconstruction and map of eq. (3), both (N, 1, H, W)."""
        coarse = self.autoencoder(slices)
        return coarse, self.coarse_map(slices, coarse, self.perceptual)

    def forward_with_mask(self, slices: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Stage 2 with a given mask: the method's own, or the true lesion (PHANES-GT).

        Args:
            slices: (N, 1, H, W) in [0, 1].
            mask: (N, 1, H, W), 0 or 1.

        Returns:
            Anomaly map s of eq. (4), and pseudo-healthy image x_ph, both (N, 1, H, W).
        """
        generated = self.inpainter(self.filling(slices, mask), mask)
        pseudo_healthy = compose_pseudo_healthy(slices, generated, mask)
        return self.anomaly_map(slices, pseudo_healthy, self.perceptual), pseudo_healthy

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Read the mask's threshold by its name in files, and leave the weights of heads out."""
        leave_out(state_dict, prefix, OF_HEADS)
        if prefix + MASK_THRESHOLD in state_dict and isinstance(self.mask, CalibratedMask):
            state_dict[prefix + "mask.threshold"] = state_dict[prefix + MASK_THRESHOLD]
        state_dict.pop(prefix + MASK_THRESHOLD, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
