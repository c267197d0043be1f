"""PHANES, the whole method as one module: slices in, anomaly map, pseudo-healthy image, mask and coarse image out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..common.options import as_bool
from .anomaly import (
    anomaly_map,
    binarize_mask,
    coarse_anomaly_map,
    compose_pseudo_healthy,
    fill_hole,
    per_image_quantile,
    relative_anomaly_map,
)
from .bias_field import fit_log_bias_field
from .equalize import equalize_adapthist
from .filters import gaussian_filter

COARSE_RESIDUALS = ("equalized", "raw", "mean")
COARSE_SALIENCIES = ("equalized", "raw", "product")


class Phanes(nn.Module):
    """Pseudo-healthy generative networks (MICCAI 2023), Fig. 2 and equations (3) and (4).

    Args:
        autoencoder: stage 1, `SoftIntroVAE`: its forward is the coarse reconstruction.
        inpainter: stage 2, `AOTGenerator`.
        perceptual: S, `SpatialLPIPS`.
        coarse_residual: images whose difference enters eq. (3): `equalized` (paper), `raw`, or the `mean` of both
            normalised residuals (equalisation lifts faint lesions, and hides those that are merely dark or bright).
        coarse_saliency: images whose perceptual distance enters eq. (3): `equalized` (paper), `raw` (published code),
            or their `product` (RA).
        residual_quantile: quantile of norm95.
        saliency_sigma: Gaussian smoothing of S in pixels (2 in the published code, absent from the paper); 0 for none.
        mask_sigma: see `binarize_mask`.
        mask_cut: see `binarize_mask`.
        mask_keeps_below: see `binarize_mask`, `keep_below`.
        mask_dilation: see `binarize_mask`.
        mask_threshold_rule: `calibrated` (paper: the stored healthy-validation percentile) or `scan_quantile`
            (published code: each slice's own `scan_quantile`).
        scan_quantile: for that rule.
        hole_fill: what the inpainter sees in the hole: a constant (published code: 1; paper: 0), or `coarse`, the
            coarse reconstruction.
        fill_passes: with `coarse`, how often the filling is drawn again, by the autoencoder from the slice whose hole
            is filled already: the first coarse reconstruction was drawn from the lesion, too. Not in the paper (0).
        opening_sizes: see `opened_difference`; none in the paper.
        opening_floor: see `opened_difference`.
        opening_growth: see `opened_difference`.
        saliency_power: see `anomaly_map`.
        refinements: how often the mask is refined and its hole filled anew. The anomaly map knows better than the
            coarse map what is abnormal: a refined mask (`refined_mask`) leaves healthy tissue alone that the first one
            held, and reaches over the rest of a lesion that it missed. The anomaly map is the mean over all fillings,
            the pseudo-healthy image the last. Not in the paper (0).
        refined_mask_sigma: Gaussian smoothing, in pixels, of the anomaly map that a refined mask is made of.
        refined_mask_growth: pixels by which a refined mask grows, in a square.
        bias_passes: how often a strong bias field is fitted and taken out of the slice (`correct_bias`); each time from
            a new coarse reconstruction, which follows the field less. Not in the paper (0).
        bias_degree: see `fit_log_bias_field`.
        bias_tissue: see `fit_log_bias_field`, `tissue`.
        bias_tolerance: see `fit_log_bias_field`, `tolerance`.
        relative_map: give the anomaly map in units of what is usual for its slice and at its place
            (`relative_anomaly_map`). Masks are refined by the map as it is. Not in the paper (False).
        relative_tissue: see `relative_anomaly_map`, `tissue`, and so the others.
        relative_error_floor: see there.
        relative_sigma: see there.
        relative_contrast_floor: see there.
        relative_unit: see there.

    The thresholds of both masks and of a strong bias field are the buffers `mask_threshold`, `refinement_threshold` and
    `bias_threshold`; `calibrate` fills them and they travel in the state dict. As long as one that is used is NaN,
    anomaly map and mask are NaN: a network without its weights cannot pass for a healthy finding.

    Raises:
        ValueError: for an unknown choice.
    """

    mask_threshold: Tensor
    refinement_threshold: Tensor
    bias_threshold: Tensor
    opening_sizes: list[int]  # TorchScript cannot tell what an empty list holds

    def __init__(
        self,
        autoencoder: nn.Module,
        inpainter: nn.Module,
        perceptual: nn.Module,
        coarse_residual: str = "equalized",
        coarse_saliency: str = "equalized",
        residual_quantile: float = 0.95,
        saliency_sigma: float = 2.0,
        mask_sigma: float = 1.2,
        mask_cut: float = 0.1,
        mask_keeps_below: bool = False,
        mask_dilation: int = 0,
        mask_threshold_rule: str = "calibrated",
        scan_quantile: float = 0.95,
        hole_fill: float | str = 1.0,
        fill_passes: int = 0,
        opening_sizes: Sequence[int] = (),
        opening_floor: float = 0.0,
        opening_growth: int = 0,
        saliency_power: float = 1.0,
        refinements: int = 0,
        refined_mask_sigma: float = 1.0,
        refined_mask_growth: int = 5,
        bias_passes: int = 0,
        bias_degree: int = 2,
        bias_tissue: float = 0.3,
        bias_tolerance: float = 0.05,
        relative_map: bool = False,
        relative_tissue: float = 0.2,
        relative_error_floor: float = 0.01,
        relative_sigma: float = 4.0,
        relative_contrast_floor: float = 0.15,
        relative_unit: float = 0.02,
    ) -> None:
        super().__init__()
        if coarse_residual not in COARSE_RESIDUALS:
            raise ValueError(f"coarse_residual must be one of {COARSE_RESIDUALS}, not {coarse_residual!r}")
        if coarse_saliency not in COARSE_SALIENCIES:
            raise ValueError(f"coarse_saliency must be one of {COARSE_SALIENCIES}, not {coarse_saliency!r}")
        if mask_threshold_rule not in ("calibrated", "scan_quantile"):
            raise ValueError(
                f"mask_threshold_rule must be 'calibrated' or 'scan_quantile', not {mask_threshold_rule!r}"
            )
        if refinements < 0:
            raise ValueError(f"refinements must be 0 or more, not {refinements}")
        if bias_passes < 0:
            raise ValueError(f"bias_passes must be 0 or more, not {bias_passes}")
        if bias_degree < 1:
            raise ValueError(f"bias_degree must be 1 or more, not {bias_degree}")
        self.autoencoder = autoencoder
        self.inpainter = inpainter
        self.perceptual = perceptual
        self.equalized_residual = coarse_residual in ("equalized", "mean")
        self.raw_residual = coarse_residual in ("raw", "mean")
        self.equalized_saliency = coarse_saliency in ("equalized", "product")
        self.raw_saliency = coarse_saliency in ("raw", "product")
        self.residual_quantile = residual_quantile
        self.saliency_sigma = saliency_sigma
        self.mask_sigma = mask_sigma
        self.mask_cut = mask_cut
        self.mask_keeps_below = as_bool("mask_keeps_below", mask_keeps_below)
        self.mask_dilation = mask_dilation
        self.per_scan_threshold = mask_threshold_rule == "scan_quantile"
        self.scan_quantile = scan_quantile
        if isinstance(hole_fill, str) and hole_fill != "coarse":
            raise ValueError(f"hole_fill must be a number or 'coarse', not {hole_fill!r}")
        self.fills_with_coarse = hole_fill == "coarse"
        self.hole_value = 1.0 if isinstance(hole_fill, str) else float(hole_fill)
        self.fill_passes = fill_passes
        self.opening_sizes = [int(size) for size in opening_sizes]
        self.opening_floor = opening_floor
        self.opening_growth = opening_growth
        self.saliency_power = saliency_power
        self.refinements = refinements
        self.refined_mask_sigma = refined_mask_sigma
        self.refined_mask_growth = refined_mask_growth
        self.bias_passes = bias_passes
        self.bias_degree = bias_degree
        self.bias_tissue = bias_tissue
        self.bias_tolerance = bias_tolerance
        self.relative_map = as_bool("relative_map", relative_map)
        self.relative_tissue = relative_tissue
        self.relative_error_floor = relative_error_floor
        self.relative_sigma = relative_sigma
        self.relative_contrast_floor = relative_contrast_floor
        self.relative_unit = relative_unit
        self.register_buffer("mask_threshold", torch.tensor(float("nan")))
        self.register_buffer("refinement_threshold", torch.tensor(float("nan")))
        self.register_buffer("bias_threshold", torch.tensor(float("nan")))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster convolutions

    @torch.jit.ignore
    def choices(self) -> dict[str, Any]:
        """The network's choices, by name: what thresholds depend on beside the weights."""
        return {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name != "training" and isinstance(value, (bool, int, float, str, list))
        }

    def saliency(self, a: Tensor, b: Tensor, features_b: list[Tensor] | None = None) -> Tensor:
        """S(a, b): smoothed spatial LPIPS of two batches of images in [0, 1], all (B, 1, H, W).

        `features_b` are the perceptual features of b where they are known already.
        """
        if features_b is None:
            distance = self.perceptual(a, b)
        else:
            features_a = self.perceptual.features(a)  # type: ignore[operator]
            distance = self.perceptual.distance(features_a, features_b, a.shape[2])  # type: ignore[operator]
        if self.saliency_sigma > 0:
            distance = gaussian_filter(distance, self.saliency_sigma)
        return distance

    @torch.jit.export
    def coarse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Stage 1: the coarse reconstruction and the map of eq. (3) before its threshold.

        Args:
            image: (B, 1, H, W) in [0, 1].

        Returns:
            coarse reconstruction (B, 1, H, W) in [0, 1]; coarse anomaly map (B, 1, H, W), >= 0.
        """
        coarse = self.autoencoder(image)
        return coarse, self.coarse_map(image, coarse, None)  # TorchScript wants every argument

    @torch.jit.export
    def coarse_map(self, image: Tensor, coarse: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Equation (3) before its threshold, of a given reconstruction: two (B, 1, H, W) -> (B, 1, H, W).

        `features` are the perceptual features of the image, where they are known already; used by `raw_saliency` alone.
        """
        equalized, equalized_coarse = image, coarse
        if self.equalized_residual or self.equalized_saliency:
            both = equalize_adapthist(torch.cat([image, coarse]))  # one pass over both
            equalized, equalized_coarse = both[: image.shape[0]], both[image.shape[0] :]
        saliency = torch.ones_like(image)
        if self.equalized_saliency:
            saliency = saliency * self.saliency(equalized_coarse, equalized, None)
        if self.raw_saliency:
            saliency = saliency * self.saliency(coarse, image, features)
        coarse_map = torch.zeros_like(image)
        if self.equalized_residual:
            residual = torch.abs(equalized_coarse - equalized)
            coarse_map = coarse_map + coarse_anomaly_map(residual, saliency, self.residual_quantile)
        if self.raw_residual:
            residual = torch.abs(coarse - image)
            coarse_map = coarse_map + coarse_anomaly_map(residual, saliency, self.residual_quantile)
        return 0.5 * coarse_map if self.equalized_residual and self.raw_residual else coarse_map

    @torch.jit.export
    def log_bias_field(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the bias field by the coarse reconstruction, (B, 1, H, W), and its strength, (B, 1, 1, 1)."""
        return fit_log_bias_field(image, coarse, self.bias_degree, self.bias_tissue, self.bias_tolerance)

    @torch.jit.export
    def correct_bias(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a strong bias field out of the slices that have one. Not in the paper.

        A field is strong when its strength exceeds `bias_threshold`, which lies well above that of healthy slices from
        the training's scanners. A slice without a strong field is left as it is.

        Args:
            image: (B, 1, H, W) in [0, 1].
            coarse: its coarse reconstruction.

        Returns:
            corrected slice in [0, 1]; its coarse reconstruction; the field (1 where nothing was corrected), by which
            what is made of the corrected slice is multiplied to be as bright as the slice. All (B, 1, H, W).
        """
        field, strength = self.log_bias_field(image, coarse)
        strong = strength > self.bias_threshold
        # As in `forward_with_mask`: programs and training compute everything, inference what is needed.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            corrected, coarse_corrected, field = self._without_bias(image, field)
            return (
                torch.where(strong, corrected, image),
                torch.where(strong, coarse_corrected, coarse),
                torch.where(strong, field, torch.ones_like(field)),
            )
        corrected, coarse_corrected, whole = image, coarse, torch.ones_like(image)
        rows = torch.nonzero(strong.flatten())[:, 0]
        if rows.shape[0] > 0:
            corrected, coarse_corrected = image.clone(), coarse.clone()
            corrected[rows], coarse_corrected[rows], whole[rows] = self._without_bias(image[rows], field[rows])
        return corrected, coarse_corrected, whole

    def _without_bias(self, image: Tensor, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image divided by its field, which further passes improve; coarse reconstruction; field."""
        corrected = torch.clamp(image * torch.exp(-field), 0.0, 1.0)
        coarse = self.autoencoder(corrected)
        for _ in range(self.bias_passes - 1):
            field = field + self.log_bias_field(corrected, coarse)[0]
            corrected = torch.clamp(image * torch.exp(-field), 0.0, 1.0)
            coarse = self.autoencoder(corrected)
        return corrected, coarse, torch.exp(field)

    @torch.jit.export
    def mask(self, coarse_map: Tensor, factor: Tensor | None = None) -> Tensor:
        """The binary mask m given to the inpainter: (B, 1, H, W) map of eq. (3) -> (B, 1, H, W), 0 or 1.

        `factor` multiplies the threshold, (B, 1, 1, 1): training varies it.
        """
        threshold = self.mask_threshold
        if self.per_scan_threshold:
            threshold = per_image_quantile(coarse_map, self.scan_quantile)
        if factor is not None:
            threshold = threshold * factor
        return binarize_mask(
            coarse_map, threshold, self.mask_sigma, self.mask_cut, self.mask_keeps_below, self.mask_dilation
        )

    @torch.jit.export
    def refined_mask(self, anomaly: Tensor) -> Tensor:
        """The mask of the next filling: where the smoothed anomaly map exceeds its threshold, grown. Not in the paper.

        Args:
            anomaly: (B, 1, H, W), the last filling's map of eq. (4).

        Returns:
            (B, 1, H, W), 0 or 1; NaN without a calibrated `refinement_threshold`.
        """
        smoothed = gaussian_filter(anomaly, self.refined_mask_sigma)
        return binarize_mask(smoothed, self.refinement_threshold, 0.0, 0.0, False, self.refined_mask_growth)

    @torch.jit.export
    def masked_input(self, image: Tensor, mask: Tensor, coarse: Tensor) -> Tensor:
        """What the inpainter sees: the image with its hole filled as `hole_fill` says, (B, 1, H, W)."""
        if not self.fills_with_coarse:
            return fill_hole(image, mask, torch.full_like(image, self.hole_value))
        filled = fill_hole(image, mask, coarse)
        for _ in range(self.fill_passes):
            filled = fill_hole(image, mask, self.autoencoder(filled))
        return filled

    @torch.jit.export
    def inpaint(self, image: Tensor, mask: Tensor, coarse: Tensor) -> Tensor:
        """The inpainter's raw prediction G of the whole image, from the image with its hole filled: (B, 1, H, W)."""
        return self.inpainter(self.masked_input(image, mask, coarse), mask)

    @torch.jit.export
    def forward_with_mask(
        self, image: Tensor, mask: Tensor, coarse: Tensor | None = None, features: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Stage 2 with a given mask (its own, or the true lesion: PHANES-GT).

        Slices with an empty mask are their own pseudo-healthy images, and their map is zero: in inference they are
        left out of everything here.

        Args:
            image: (B, 1, H, W) in [0, 1].
            mask: (B, 1, H, W), 0 or 1.
            coarse: the coarse reconstruction, computed when it is not given.
            features: the perceptual features of the image, computed when they are not given.

        Returns:
            anomaly map s of eq. (4) and pseudo-healthy image x_ph, both (B, 1, H, W).
        """
        if coarse is None:
            coarse = self.autoencoder(image)
        # A program of torch.export has no branches; training must not wait for the device.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.inpaint_and_compare(image, mask, coarse, features)
        rows = torch.nonzero((mask != 0).flatten(1).any(dim=1))[:, 0]  # NaN is not 0
        if rows.shape[0] == image.shape[0]:
            return self.inpaint_and_compare(image, mask, coarse, features)
        anomaly, pseudo_healthy = torch.zeros_like(image), image.clone()
        if rows.shape[0] > 0:
            chosen: list[Tensor] | None = None
            if features is not None:
                chosen = [tap[rows] for tap in features]
            anomaly[rows], pseudo_healthy[rows] = self.inpaint_and_compare(
                image[rows], mask[rows], coarse[rows], chosen
            )
        return anomaly, pseudo_healthy

    def inpaint_and_compare(
        self, image: Tensor, mask: Tensor, coarse: Tensor, features: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """What is in the mask is inpainted, equation (4) compares; empty masks, too, and without branches.

        See `forward_with_mask`, all of whose arguments are given here.
        """
        generated = self.inpaint(image, mask, coarse)
        pseudo_healthy = compose_pseudo_healthy(image, generated, mask)
        saliency = self.saliency(pseudo_healthy, image, features)
        anomaly = anomaly_map(
            image,
            pseudo_healthy,
            saliency,
            self.opening_sizes,
            self.opening_floor,
            self.opening_growth,
            self.saliency_power,
        )
        return anomaly, pseudo_healthy

    @torch.jit.export
    def analyse(self, image: Tensor, refinements: int, relative: bool = False) -> Tensor:
        """The whole method with a given number of refinements, its map relative or absolute: see `forward`."""
        source, field = image, torch.ones_like(image)
        coarse = self.autoencoder(image)
        if self.bias_passes > 0:
            image, coarse, field = self.correct_bias(image, coarse)
        features: list[Tensor] | None = None
        if self.raw_saliency or refinements > 0:
            # Once, for all distances of this image.
            features = self.perceptual.features(image)  # type: ignore[operator]
        mask = self.mask(self.coarse_map(image, coarse, features), None)
        anomaly, pseudo_healthy = self.forward_with_mask(image, mask, coarse, features)
        total, undefined = anomaly, 0.0 * mask
        if self.bias_passes > 0:
            undefined = undefined + 0.0 * self.bias_threshold
        for _ in range(refinements):
            mask = self.refined_mask(anomaly)
            undefined = undefined + 0.0 * mask
            anomaly, pseudo_healthy = self.forward_with_mask(image, mask, coarse, features)
            total = total + anomaly
        # A NaN threshold compares as False and would leave an empty mask; carry it into map and mask instead.
        total = total / (1 + refinements)
        if relative:
            total = relative_anomaly_map(
                total,
                image,
                coarse,
                self.relative_tissue,
                self.relative_error_floor,
                self.relative_sigma,
                self.relative_contrast_floor,
                self.relative_unit,
            )
        total = total + undefined
        if self.bias_passes > 0:
            # As bright as the slice: outside of the mask it is the slice.
            pseudo_healthy = compose_pseudo_healthy(source, pseudo_healthy * field, mask)
        return torch.cat([total, pseudo_healthy, mask + undefined, coarse], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """The whole method.

        Args:
            image: (B, 1, H, W) in [0, 1].

        Returns:
            (B, 4, H, W): anomaly map s (>= 0; with `relative_map` in units of the usual), pseudo-healthy image x_ph,
            mask m (with refinements: the last, of which x_ph is composed), coarse reconstruction (of a slice whose
            strong bias field was taken out: without it).
        """
        return self.analyse(image, self.refinements, self.relative_map)
