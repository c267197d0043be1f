"""The bias field of a slice. Not in the paper.

Another coil or an uncorrected scan makes one side of a head brighter than the other. A generative model of healthy
slices has not learnt such fields and does not draw them. The field is therefore the smooth part of the logarithm of
slice / reconstruction.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .slices import fold, unfold

DEGREE = 2  # of the polynomial
TISSUE = 0.3  # pixels count where image and reference are brighter
TOLERANCE = 0.05  # a pixel with a larger residual of the logarithm counts less than half
POOLING = 4  # side of the squares of pixels that are averaged first; a shift by a pixel then matters less
ITERATIONS = 6  # of the reweighting
RIDGE = 1e-3  # penalty on the squared coefficients; a pixel has weight 1. Keeps the equations solvable without tissue
# The threshold of a strong field is MARGIN times the healthy percentile: a large lesion looks a little like a field.
MARGIN = 1.3


def legendre_basis(height: int, width: int, degree: int, device: torch.device) -> Tensor:
    """Products of Legendre polynomials up to a total degree: (height * width, (degree + 1) (degree + 2) / 2), float64.

    The first is the constant 1. Each axis runs from -1 to 1 between the outer edges of the outer pixels.
    """
    columns = []
    rows_of = _legendre(height, degree, device)
    columns_of = _legendre(width, degree, device)
    for i in range(degree + 1):
        for j in range(degree + 1 - i):
            columns.append((rows_of[i][:, None] * columns_of[j][None, :]).flatten())
    return torch.stack(columns, dim=1)


def _legendre(length: int, degree: int, device: torch.device) -> list[Tensor]:
    """Legendre polynomials 0 to `degree` at the pixels' centres, by Bonnet's recursion."""
    x = (2.0 * torch.arange(length, dtype=torch.float64, device=device) + 1.0) / length - 1.0
    polynomials = [torch.ones_like(x), x]
    for n in range(1, degree):
        polynomials.append(((2 * n + 1) * x * polynomials[n] - n * polynomials[n - 1]) / (n + 1))
    return polynomials


def solve_positive_definite(matrices: Tensor, right: Tensor) -> Tensor:
    """(B, N, N) symmetric positive definite, (B, N) -> (B, N), by Gauss-Jordan elimination.

    `torch.linalg.solve` has no counterpart in ONNX, to which the method is exported.
    """
    size = matrices.shape[2]
    augmented = torch.cat([matrices, right[:, :, None]], dim=2)
    identity = torch.eye(size, dtype=matrices.dtype, device=matrices.device)
    for k in range(size):
        pivot = augmented[:, k : k + 1] / augmented[:, k : k + 1, k : k + 1]
        # Row k becomes the pivot row; every other one loses its column k.
        augmented = augmented - (augmented[:, :, k : k + 1] - identity[:, k : k + 1]) * pivot
    return augmented[:, :, size]


def fit_log_bias_field(
    image: Tensor,
    reference: Tensor,
    degree: int = DEGREE,
    tissue: float = TISSUE,
    tolerance: float = TOLERANCE,
    pooling: int = POOLING,
    iterations: int = ITERATIONS,
    ridge: float = RIDGE,
) -> tuple[Tensor, Tensor]:
    """Robust polynomial fit of log(image / reference) within the tissue: iteratively reweighted least squares.

    A pixel with residual r has Cauchy's weight, 1 / (1 + (r / tolerance)^2). A lesion is not smooth, so it pulls
    little. Everything is summed in double precision. The other arguments are explained at the head of this file.

    Args:
        image: (N, 1, H, W) in [0, 1].
        reference: (N, 1, H, W) in [0, 1], the same without a bias field, such as the coarse reconstruction.

    Returns:
        Logarithm of the field, (N, 1, H, W) float32; the image divided by the field has none. Standard deviation of
        that logarithm over the tissue, (N, 1, 1, 1) float32.
    """
    height, width = image.shape[2], image.shape[3]
    x = F.avg_pool2d(image.float(), pooling)
    y = F.avg_pool2d(reference.float(), pooling)
    counts = ((x > tissue) & (y > tissue)).double().flatten(1)
    ratio = (x.clamp(min=1e-3).double().log() - y.clamp(min=1e-3).double().log()).flatten(1)
    basis = legendre_basis(x.shape[2], x.shape[3], degree, image.device)
    penalty = ridge * torch.eye(basis.shape[1], dtype=torch.float64, device=image.device)
    weights = counts
    coefficients = torch.zeros(image.shape[0], basis.shape[1], dtype=torch.float64, device=image.device)
    for _ in range(iterations):
        weighted = weights[:, :, None] * basis
        coefficients = solve_positive_definite(
            weighted.transpose(1, 2) @ basis + penalty, (weighted * ratio[:, :, None]).sum(dim=1)
        )
        residual = ratio - coefficients @ basis.T
        weights = counts / (1.0 + (residual / tolerance).square())
    field = coefficients @ basis.T
    total = counts.sum(dim=1, keepdim=True).clamp(min=1.0)
    mean = (counts * field).sum(dim=1, keepdim=True) / total
    spread = ((counts * (field - mean).square()).sum(dim=1, keepdim=True) / total).sqrt()
    fine = coefficients @ legendre_basis(height, width, degree, image.device).T
    return fine.reshape(-1, 1, height, width).float(), spread.reshape(-1, 1, 1, 1).float()


class BiasField(nn.Module):
    """The bias field b of a slice, and its strength. log b is the polynomial fit of log(x / x_c).

    A field is strong when the standard deviation of log b exceeds the buffer `threshold`. `Phanes` divides a slice with
    a strong field by b and draws x_c anew. The new x_c follows the field less, so that a second fit finds more of it.
    A slice without a strong field stays as it is.

    `threshold` is NaN until `calibrate` sets it to `MARGIN` times a percentile of healthy slices.

    Args:
        passes: how often a strong field is fitted, 1 or more.
        percentile: which percentile of the healthy slices' standard deviations `calibrate` takes.

    Raises:
        ValueError: `passes` is below 1.
    """

    threshold: Tensor

    def __init__(self, passes: int = 2, percentile: float = 99.0) -> None:
        super().__init__()
        if passes < 1:
            raise ValueError(f"passes must be 1 or more, not {passes}; leave the bias field out (null) for none")
        self.passes = passes
        self.percentile = float(percentile)
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def forward(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Fit the field of every slice (`fit_log_bias_field`).

        Args:
            image: x, (B, 1, H, W, D) in [0, 1].
            coarse: x_c, same shape, in [0, 1].

        Returns:
            log b, same shape; its standard deviation in the tissue, one number a slice, (B D, 1, 1, 1).
        """
        field, strength = fit_log_bias_field(fold(image), fold(coarse))
        return unfold(field, image), strength
