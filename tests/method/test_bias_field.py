"""The bias field's fit, against numpy's polynomials and solver and against fields that were put in."""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from torch import Tensor

from scripts.method.bias_field import BiasField, fit_log_bias_field, legendre_basis, solve_positive_definite


def axis(length: int) -> np.ndarray:
    return (np.arange(length) + 0.5) / length * 2 - 1


def fields(coefficients: Tensor, degree: int = 2, size: int = 64) -> Tensor:
    """(B, N) coefficients in numpy's order of triangular pairs -> (B, 1, size, size) log fields, by numpy."""
    maps = []
    for row in coefficients.numpy():
        pairs = np.zeros((degree + 1, degree + 1))
        values = iter(row)
        for i in range(degree + 1):
            for j in range(degree + 1 - i):
                pairs[i, j] = next(values)
        maps.append(legendre.leggrid2d(axis(size), axis(size), pairs))
    return torch.from_numpy(np.stack(maps))[:, None].float()


@pytest.fixture
def reference() -> Tensor:
    """Three discs of tissue with texture in the dark, (3, 1, 64, 64)."""
    y, x = np.meshgrid(axis(64), axis(64), indexing="ij")
    texture = np.random.default_rng(0).uniform(0.4, 0.6, (3, 16, 16)).repeat(4, axis=1).repeat(4, axis=2)
    return torch.from_numpy(np.where(x**2 + y**2 < 0.7, texture, 0.0))[:, None].float()


@pytest.fixture
def coefficients() -> Tensor:
    return torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) * 0.3 - 0.15


def test_the_basis_is_numpys_legendre_products():
    basis = legendre_basis(5, 7, 3, torch.device("cpu")).numpy()
    expected = [
        np.outer(legendre.legval(axis(5), np.eye(4)[i]), legendre.legval(axis(7), np.eye(4)[j])).ravel()
        for i in range(4)
        for j in range(4 - i)
    ]
    np.testing.assert_allclose(basis.T, expected, atol=1e-14)


def test_the_solver_is_numpys():
    generator = np.random.default_rng(2)
    roots, right = generator.normal(size=(4, 6, 6)), generator.normal(size=(4, 6))
    matrices = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(6)
    found = solve_positive_definite(torch.from_numpy(matrices), torch.from_numpy(right))
    np.testing.assert_allclose(found, np.linalg.solve(matrices, right[:, :, None])[:, :, 0], rtol=1e-9)


def test_a_field_that_was_put_in_is_found_and_its_strength_is_its_deviation_in_the_tissue(reference, coefficients):
    truth = fields(coefficients)
    # Constant within the pooled squares, so that pooling and field commute but for the field's own slope.
    found, strength = fit_log_bias_field(reference * truth.exp(), reference)
    tissue = reference > 0
    assert (found - truth)[tissue].abs().max() < 0.005
    for one, mask, value in zip(truth, tissue, strength, strict=True):
        assert float(value) == pytest.approx(float(one[mask].std()), rel=0.05)


def test_a_lesion_pulls_little(reference, coefficients):
    truth = fields(coefficients)
    image = reference * truth.exp()
    image[:, :, 20:32, 24:36] *= 0.5  # 11 % of the tissue
    found, _ = fit_log_bias_field(image, reference)
    error = (found - truth)[reference > 0].abs()
    assert error.mean() < 0.02
    least_squares, _ = fit_log_bias_field(image, reference, tolerance=1e6)
    assert (least_squares - truth)[reference > 0].abs().mean() > 2 * error.mean()


def test_a_slice_without_tissue_has_no_field(reference):
    found, strength = fit_log_bias_field(torch.zeros_like(reference), reference)
    assert not found.any()
    assert not strength.any()


def test_a_batch_is_its_slices_one_by_one(reference, coefficients):
    image = reference * fields(coefficients).exp()
    together = fit_log_bias_field(image, reference)
    for i in range(3):
        alone = fit_log_bias_field(image[i : i + 1], reference[i : i + 1])
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[i])


def test_the_component_fits_volumes_and_refuses_no_pass(reference, coefficients):
    image = reference * fields(coefficients).exp()
    expected, strength = fit_log_bias_field(image, reference)
    found, found_strength = BiasField()(*(tensor.permute(1, 2, 3, 0)[None] for tensor in (image, reference)))
    assert torch.equal(found[0].permute(3, 0, 1, 2), expected)
    assert torch.equal(found_strength, strength)
    assert BiasField().threshold.isnan()
    with pytest.raises(ValueError, match="passes must be 1 or more, not 0"):
        BiasField(passes=0)
