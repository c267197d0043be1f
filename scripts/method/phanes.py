"""PHANES, the whole method: heads in, anomaly map, pseudo-healthy image, mask and coarse reconstruction out."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .anomaly_map import AnomalyMap, OpenedAnomalyMap
from .bias_field import BiasField
from .coarse_map import CoarseMap
from .filling import CoarseFilling, ConstantFilling, compose_pseudo_healthy
from .mask_rule import CalibratedMask, ScanQuantileMask
from .networks.perceptual import SpatialLPIPS
from .refinement import Refinement
from .relative_map import RelativeMap
from .slices import branchless, chunks, fold, joined, unfold

CHANNELS = ("anomaly", "pseudo_healthy", "mask", "coarse")  # of the output, in this order
# Names of the components' thresholds in a state dict, and so in every file of weights.
THRESHOLDS = {
    "mask_threshold": "mask.threshold",
    "refinement_threshold": "refinement.threshold",
    "bias_threshold": "bias_field.threshold",
}
# The shipped model.pt holds the weights of `HeadPhanes` and of `Phanes`. Their names begin so.
OF_HEADS = ("network.", "mask.threshold")
OF_SLICES = ("autoencoder.", "inpainter.", "perceptual.", *THRESHOLDS)


def leave_out(state_dict: dict[str, Any], prefix: str, names: tuple[str, ...]) -> None:
    """Delete from a state dict, in place, what another network owns: `prefix` + one of `names` begins its names."""
    others = tuple(prefix + name for name in names)
    for name in [name for name in state_dict if name.startswith(others)]:
        del state_dict[name]


def with_head(image: Tensor, head: Tensor) -> Tensor:
    """The image (B, C, ...) with another head (B, 1, ...) as its channel 0."""
    return head if image.shape[1] == 1 else torch.cat([head, image[:, 1:]], dim=1)


def _with_names_of_files(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Hook of `Phanes.state_dict`: give the thresholds their names in files (`THRESHOLDS`)."""
    for name, buffer in THRESHOLDS.items():
        if prefix + buffer in state:
            state[prefix + name] = state.pop(prefix + buffer)


class Phanes(nn.Module):
    """Pseudo-healthy generative networks (MICCAI 2023), Fig. 2.

    x is an image, E and D the autoencoder's halves, G the inpainter, S the perceptual distance:

    1. coarse reconstruction: x_c = D(E(x))
    2. `coarse_map`, eq. (3): norm95(|eq(x_c) - eq(x)|) S(eq(x_c), eq(x)). `mask`: m = 1 where it exceeds a threshold
    3. `filling` fills the hole, where m is 1, for the inpainter to see. x_ph = x (1 - m) + G(filling, m) m
    4. `anomaly_map`, eq. (4): s = |x_ph - x| S(x_ph, x)

    Three components are additions to the paper, and may be None:

    - `bias_field`, before 2, takes a strong bias field out of x.
    - `refinement`, after 4, makes a new mask of s and repeats 3 and 4. s is then the mean over all fillings, and x_ph
      the last one.
    - `relative_map`, at the end, gives s in units of what is usual.

    Args:
        autoencoder: stage 1, `SoftIntroVAE`. Its forward is D(E(x)); it gets slices with all channels of the image.
        inpainter: stage 2, `AOTGenerator`.
        perceptual: S, `SpatialLPIPS`.
        coarse_map: `CoarseMap`.
        mask: `CalibratedMask`, or the published code's `ScanQuantileMask`.
        filling: `ConstantFilling` or `CoarseFilling`.
        anomaly_map: `AnomalyMap` or `OpenedAnomalyMap`.
        refinement: `Refinement`, or None.
        bias_field: `BiasField`, or None.
        relative_map: `RelativeMap`, or None.

    Components take volumes (B, 1, H, W, D) or single slices (B, 1, H, W). Networks see levels as a batch of slices.

    A component's `threshold` is a buffer that `calibrate` fills. As long as a threshold is NaN, anomaly map and mask
    are NaN: a network without its weights cannot pass for a healthy finding.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no unions of modules
        autoencoder: nn.Module
        inpainter: nn.Module
        perceptual: SpatialLPIPS
        coarse_map: CoarseMap
        mask: CalibratedMask | ScanQuantileMask
        filling: ConstantFilling | CoarseFilling
        anomaly_map: AnomalyMap | OpenedAnomalyMap
        refinement: Refinement | None
        bias_field: BiasField | None
        relative_map: RelativeMap | None

    def __init__(
        self,
        autoencoder: nn.Module,
        inpainter: nn.Module,
        perceptual: SpatialLPIPS,
        coarse_map: CoarseMap,
        mask: CalibratedMask | ScanQuantileMask,
        filling: ConstantFilling | CoarseFilling,
        anomaly_map: AnomalyMap | OpenedAnomalyMap,
        refinement: Refinement | None = None,
        bias_field: BiasField | None = None,
        relative_map: RelativeMap | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.inpainter = inpainter
        self.perceptual = perceptual
        self.coarse_map = coarse_map
        self.mask = mask
        self.filling = filling
        self.anomaly_map = anomaly_map
        self.refinement = refinement
        self.bias_field = bias_field
        self.relative_map = relative_map
        self.register_state_dict_post_hook(_with_names_of_files)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster convolutions

    def forward(self, image: Tensor) -> Tensor:
        """The whole method.

        Args:
            image: (B, C, H, W, D), or single slices (B, C, H, W). Channel 0 is the head, in [0, 1]. Channel 1, where
                there is one, holds each level's height, MNI z in mm; an autoencoder of one level does not look at it.

        Returns:
            (B, 4, H, W, D) or (B, 4, H, W), in the order of `CHANNELS`. Anomaly map s, >= 0; with `relative_map` in
            units of what is usual. Pseudo-healthy image x_ph. Mask m; with `refinement` the last one, in which x_ph was
            filled. Coarse reconstruction x_c; where a strong bias field was taken out, x_c does not have it.
        """
        return self.analyse(image, True, True)

    @torch.jit.export
    def analyse(self, image: Tensor, refine: bool, relative: bool) -> Tensor:
        """`forward`, with `refinement` and `relative_map` used or left out."""
        x = unfold(fold(image), image)
        source, coarse = x[:, :1], self.reconstruct(x)
        field, undefined = torch.ones_like(source), torch.zeros_like(source)
        if self.bias_field is not None:
            x, coarse, field = self.correct_bias(x, coarse)
            undefined = undefined + 0.0 * self.bias_field.threshold
        features: list[Tensor] | None = None
        if self.refinement is not None and refine:
            # Computed once; every filling uses them.
            features = self.perceptual.features(fold(x[:, :1]))
        mask = self.mask(self.suspicion(x, coarse))
        anomaly, pseudo_healthy = self.forward_with_mask(x, mask, coarse, features)
        # A NaN threshold compares as False and would leave an empty mask; carry it into map and mask instead.
        undefined = undefined + 0.0 * mask
        if self.refinement is not None and refine:
            total = anomaly
            for _ in range(self.refinement.times):
                mask = self.refinement(anomaly)
                undefined = undefined + 0.0 * mask
                anomaly, pseudo_healthy = self.forward_with_mask(x, mask, coarse, features)
                total = total + anomaly
            anomaly = total / (1 + self.refinement.times)
        if self.relative_map is not None and relative:
            anomaly = self.relative_map(anomaly, x[:, :1], coarse)
        if self.bias_field is not None:
            # The field makes the filling as bright as the image around it.
            pseudo_healthy = compose_pseudo_healthy(source, pseudo_healthy * field, mask)
        return torch.cat([anomaly + undefined, pseudo_healthy, mask + undefined, coarse], dim=1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """x_c = D(E(x)): an image as in `forward` -> (B, 1, H, W, D) in [0, 1]."""
        parts: list[Tensor] = []
        for part in chunks(fold(image)):
            parts.append(self.autoencoder(part))
        return unfold(joined(parts), image)

    def saliency(self, a: Tensor, b: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """S(a, b), the perceptual distance.

        Args:
            a: (B, 1, H, W, D) in [0, 1].
            b: same shape and range.
            features: the perceptual features of b's slices; computed when None.

        Returns:
            (B, 1, H, W, D), >= 0.
        """
        parts: list[Tensor] = []
        if features is None:
            for one, other in zip(chunks(fold(a)), chunks(fold(b))):  # noqa: B905 - TorchScript knows no strict
                parts.append(self.perceptual(one, other))
        else:
            known = [chunks(tap) for tap in features]
            for n, one in enumerate(chunks(fold(a))):
                own = self.perceptual.features(one)
                parts.append(self.perceptual.distance(own, [tap[n] for tap in known], one.shape[2]))
        return unfold(joined(parts), a)

    def suspicion(self, image: Tensor, coarse: Tensor) -> Tensor:
        """Equation (3) before its threshold: image and coarse reconstruction -> (B, 1, H, W, D), >= 0."""
        residual, a, b = self.coarse_map.compare(image[:, :1], coarse)
        return self.coarse_map(residual, self.saliency(a, b))

    @torch.jit.export
    def coarse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Stage 1: an image as in `forward` -> coarse reconstruction and map of eq. (3), both (B, 1, H, W, D)."""
        coarse = self.reconstruct(image)
        return coarse, self.suspicion(image, coarse)

    @torch.jit.export
    def forward_with_mask(
        self, image: Tensor, mask: Tensor, coarse: Tensor | None = None, features: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Stage 2 with a given mask: the method's own, or the true lesion (PHANES-GT).

        Args:
            image: as `forward` takes it.
            mask: (B, 1, H, W, D), 0 or 1.
            coarse: the coarse reconstruction, computed when it is not given.
            features: the perceptual features of the image's slices, computed when they are not given.

        Returns:
            Anomaly map s of eq. (4), and pseudo-healthy image x_ph, both (B, 1, H, W, D).
        """
        if coarse is None:
            coarse = self.reconstruct(image)
        x, m = fold(image), fold(mask)
        pseudo_healthy, saliency = x[:, :1], torch.zeros_like(m)
        if branchless():
            pseudo_healthy, saliency = self.inpaint(x, m, fold(coarse), features)
        else:
            # A slice with an empty mask is its own pseudo-healthy image: the networks need not see it.
            rows = torch.nonzero((m != 0).flatten(1).any(dim=1))[:, 0]  # NaN is not 0
            if rows.shape[0] == x.shape[0]:
                pseudo_healthy, saliency = self.inpaint(x, m, fold(coarse), features)
            elif rows.shape[0] > 0:
                chosen: list[Tensor] | None = None
                if features is not None:
                    chosen = [tap[rows] for tap in features]
                pseudo_healthy = pseudo_healthy.clone()
                pseudo_healthy[rows], saliency[rows] = self.inpaint(x[rows], m[rows], fold(coarse)[rows], chosen)
        pseudo_healthy = unfold(pseudo_healthy, image)
        return self.anomaly_map(image[:, :1], pseudo_healthy, unfold(saliency, image)), pseudo_healthy

    def inpaint(
        self, image: Tensor, mask: Tensor, coarse: Tensor, features: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """x_ph and S(x_ph, x) of slices (N, C, H, W), also of those with an empty mask: (N, 1, H, W) each."""
        parts: list[Tensor] = []
        for seen, hole in zip(chunks(self.masked_input(image, mask, coarse)), chunks(mask)):  # noqa: B905
            parts.append(self.inpainter(seen, hole))
        pseudo_healthy = compose_pseudo_healthy(image[:, :1], joined(parts), mask)
        return pseudo_healthy, self.saliency(pseudo_healthy, image[:, :1], features)

    @torch.jit.export
    def masked_input(self, image: Tensor, mask: Tensor, coarse: Tensor) -> Tensor:
        """What the inpainter sees: the head with its hole filled, (B, 1, H, W, D)."""
        filled = self.filling(image[:, :1], mask, coarse)
        for _ in range(self.filling.passes):
            filled = self.filling(image[:, :1], mask, self.reconstruct(with_head(image, filled)))
        return filled

    def correct_bias(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a strong bias field out of the slices that have one; needs `bias_field`.

        Args:
            image: as `forward` takes it.
            coarse: its coarse reconstruction.

        Returns:
            The image with its head corrected. Its coarse reconstruction. The field, 1 where nothing was corrected; a
            result of the corrected head times the field is as bright as the head.
        """
        if self.bias_field is None:
            return image, coarse, torch.ones_like(coarse)
        x, x_c = fold(image), fold(coarse)
        field, strength = self.bias_field(x[:, :1], x_c)
        strong = strength > self.bias_field.threshold
        whole = torch.ones_like(x_c)
        if branchless():
            corrected, coarse_corrected, field = self.without_bias(x, field)
            x_c, whole = torch.where(strong, coarse_corrected, x_c), torch.where(strong, field, whole)
            x = torch.where(strong, corrected, x)
        else:
            rows = torch.nonzero(strong.flatten())[:, 0]
            if rows.shape[0] > 0:
                x, x_c = x.clone(), x_c.clone()
                x[rows], x_c[rows], whole[rows] = self.without_bias(x[rows], field[rows])
        return unfold(x, image), unfold(x_c, image), unfold(whole, image)

    def without_bias(self, image: Tensor, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Divide slices by their field, and improve the field in further passes.

        Args:
            image: (N, C, H, W), as `forward` takes it.
            field: (N, 1, H, W), logarithm of the field.

        Returns:
            Corrected slices (N, C, H, W); their coarse reconstruction, (N, 1, H, W); the field itself, (N, 1, H, W).
        """
        head = image[:, :1]
        corrected = with_head(image, torch.clamp(head * torch.exp(-field), 0.0, 1.0))
        coarse = self.reconstruct(corrected)
        if self.bias_field is not None:
            for _ in range(self.bias_field.passes - 1):
                field = field + self.bias_field(corrected[:, :1], coarse)[0]
                corrected = with_head(image, torch.clamp(head * torch.exp(-field), 0.0, 1.0))
                coarse = self.reconstruct(corrected)
        return corrected, coarse, torch.exp(field)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Read thresholds by their names in files; thresholds of additions that this network lacks are left out."""
        leave_out(state_dict, prefix, OF_HEADS)
        own = dict(self.named_buffers())
        for name, buffer in THRESHOLDS.items():
            value = state_dict.pop(prefix + name, None)
            if value is not None and buffer in own:
                state_dict[prefix + buffer] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
