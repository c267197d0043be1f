"""The closed-form network: probabilistic PCA of each axial level. It is fitted in seconds, without gradient descent.

A slice is mean + components x coefficients + noise. The reconstruction uses the posterior mean of the coefficients.
It is reweighted with Cauchy's weights: a pixel far from the reconstruction counts less and less, so that a lesion does
not draw its own reconstruction. The pixels of a hole have weight 0, and are completed from the rest of the slice.

Conjugate gradients with a fixed number of matrix products find the posterior. ONNX can hold them, and no solver.
`scripts.training.linear` fits the buffers.
"""

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..slices import chunks, joined
from ..volume_map import median_within
from .levels import level_index

REWEIGHTINGS = 4
PRODUCTS = 2  # conjugate gradient steps in each reweighting, which starts where the last one ended
PRODUCTS_FILLING = 3  # with a hole the system is further from diagonal; 6 steps change no score on val by 0.1
TAIL = 1.5  # Cauchy's scale in median absolute errors
COMPONENTS = 30  # on val, 100 found painted strokes as well and gliomas less well; they take three times the space
NOISE = 0.01  # variance of a pixel's noise; images in units of the head's median brightness
BRIGHTNESS = 2.0  # 1.0 in the network's input is so many times the median brightness of the head's brain


class LinearAutoencoder(nn.Module):
    """Posterior reconstruction of axial slices at any of the trained levels.

    Only the brain's pixels are modelled; the rest of a slice is passed through. Each buffer holds the pixels of one
    level after those of the other, because their number differs from level to level.

    Args:
        brain: (H, W, D) the template's brain at each level, > 0 inside.
        heights: MNI z of each level, mm, evenly spaced, rising.
        components: number of components a level.

    Raises:
        ValueError: `heights` and `brain` differ in their number of levels.
    """

    def __init__(self, brain: ArrayLike, heights: Sequence[float], components: int = COMPONENTS) -> None:
        super().__init__()
        inside = torch.asarray(brain, copy=True).permute(2, 0, 1).flatten(1) > 0  # (D, H * W)
        if len(heights) != len(inside):
            raise ValueError(f"{len(heights)} heights for {len(inside)} levels of the brain.")
        counts = inside.sum(dim=1)
        total, levels = int(counts.sum()), len(inside)
        self.first, self.last = float(heights[0]), float(heights[-1])
        # TorchScript reads attributes, not a module's constants.
        self.reweightings, self.tail, self.brightness = REWEIGHTINGS, TAIL, BRIGHTNESS
        self.products, self.products_filling = PRODUCTS, PRODUCTS_FILLING
        self.largest = int(counts.max())  # pixels of the level that has most
        self.register_buffer("counts", counts)
        self.register_buffer("starts", counts.cumsum(0) - counts)
        self.register_buffer("pixels", inside.nonzero()[:, 1])
        self.register_buffer("mean", torch.full((total,), torch.nan, dtype=torch.float16))
        self.register_buffer("components", torch.full((total, components), torch.nan, dtype=torch.float16))
        self.register_buffer("variances", torch.full((levels, components), torch.nan))
        self.counts: Tensor
        self.starts: Tensor
        self.pixels: Tensor
        self.mean: Tensor
        self.components: Tensor
        self.variances: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The reweighted reconstruction.

        Args:
            x: (B, 2, H, W): slices in [0, 1], where 0.5 is the head's median brightness; a plane of their MNI z, mm.

        Returns:
            (B, 1, H, W), in the slices' units; outside of the brain the slice's own values.
        """
        return self.in_single_precision(x, None)

    def fill(self, x: Tensor, hole: Tensor) -> Tensor:
        """The slice completed from the surroundings of a hole; no pixel inside the hole is looked at.

        Args:
            x: (B, 2, H, W), as in `forward`.
            hole: (B, 1, H, W), > 0 inside.

        Returns:
            (B, 1, H, W): the reconstruction in the whole brain, not only in the hole.
        """
        return self.in_single_precision(x, hole)

    def in_single_precision(self, x: Tensor, hole: Tensor | None) -> Tensor:
        """`reconstruct` in float32, also within autocast: conjugate gradients in bfloat16 end elsewhere."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript leaves out what only Python runs
            if torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return self.slice_by_slice(x.float(), hole)
        return self.slice_by_slice(x, hole)

    def slice_by_slice(self, x: Tensor, hole: Tensor | None) -> Tensor:
        """`reconstruct`; on a CPU one slice after the other, whose components stay in its cache. It is three times as
        fast, and a slice has the same result in any batch."""
        size = 1 if x.device.type == "cpu" else x.shape[0]
        parts: list[Tensor] = []
        if hole is None:
            for part in chunks(x, size):
                parts.append(self.reconstruct(part, None))
        else:
            for part, gap in zip(chunks(x, size), chunks(hole, size)):  # noqa: B905 - TorchScript knows no strict
                parts.append(self.reconstruct(part, gap))
        return joined(parts)

    def reconstruct(self, x: Tensor, hole: Tensor | None) -> Tensor:
        """`forward` without a hole, `fill` with one."""
        images = x[:, :1].flatten(2)[:, 0].float()
        level = level_index(x[:, 1], self.first, self.last, self.counts.shape[0])
        place = torch.arange(self.largest, device=x.device)
        inside = place < self.counts[level][:, None]  # (B, P); shorter levels are padded
        position = torch.where(inside, self.starts[level][:, None] + place, 0)
        pixel = self.pixels[position]
        components = self.components[position].float() * inside[:, :, None]  # (B, P, K)
        mean = self.mean[position].float()
        deviation = (self.brightness * images.gather(1, pixel) - mean) * inside
        seen = inside.float()
        if hole is not None:
            seen = seen * (hole.flatten(2)[:, 0].gather(1, pixel) <= 0)
        products = self.products if hole is None else self.products_filling
        variances, present = self.variances[level], self.counts[level][:, None]
        coefficients = torch.zeros_like(variances)
        weights = seen
        for reweighting in range(self.reweightings + 1):
            if reweighting > 0:
                error = (deviation - _times(components, coefficients)).abs()
                usual = median_within(error[:, None], seen[:, None])[:, 0]
                weights = seen / (1 + (error / (self.tail * usual + 1e-6)).square())
            coefficients = _posterior(components, variances, deviation, weights, coefficients, present, products)
        reconstruction = (mean + _times(components, coefficients)) / self.brightness
        # Padding writes to the slice's spare last pixel, which is cut off again.
        target = torch.where(inside, pixel, images.shape[1])
        canvas = torch.cat([images, torch.zeros_like(images[:, :1])], dim=1)
        result = canvas.scatter(1, target, reconstruction)[:, :-1]
        return result.reshape(x[:, :1].shape)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, M, N) x (B, N) -> (B, M)."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def _posterior(
    components: Tensor,
    variances: Tensor,
    deviation: Tensor,
    weights: Tensor,
    start: Tensor,
    present: Tensor,
    products: int,
    noise: float = NOISE,
) -> Tensor:
    """Solve (W' diag(w) W + noise) c = W' diag(w) d by preconditioned conjugate gradients.

    With all weights 1 the matrix W' W is diagonal and equals `variances`. The preconditioner is `variances` times the
    mean weight, plus the noise.

    Args:
        components: W, (B, P, K).
        variances: (B, K), diagonal of W' W.
        deviation: d, (B, P), slice minus mean.
        weights: w, (B, P).
        start: (B, K), coefficients to begin with.
        present: (B, 1), number of the level's pixels.
        products: number of steps.
        noise: variance of a pixel's noise.

    Returns:
        c, (B, K).
    """
    transposed = components.transpose(1, 2)
    share = weights.sum(dim=1, keepdim=True) / present
    precondition = 1 / (variances * share + noise)
    solution = start
    rest = _times(transposed, weights * (deviation - _times(components, start))) - noise * start
    preconditioned = precondition * rest
    direction = preconditioned
    energy = (rest * preconditioned).sum(dim=1, keepdim=True)
    for _ in range(products):
        image = _times(transposed, weights * _times(components, direction)) + noise * direction
        step = energy / (direction * image).sum(dim=1, keepdim=True).clamp(min=1e-20)
        solution = solution + step * direction
        rest = rest - step * image
        preconditioned = precondition * rest
        before, energy = energy, (rest * preconditioned).sum(dim=1, keepdim=True)
        direction = preconditioned + energy / before.clamp(min=1e-20) * direction
    return solution
