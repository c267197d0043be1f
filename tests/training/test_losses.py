"""Every loss against a case computed by hand and against float64 or a closed form."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from scripts.training.losses import (
    SoftIntroLoss,
    SoftMaskAdversarialLoss,
    gram_matrix,
    kl_divergence,
    perceptual_loss,
    reconstruction_error,
    reversed_embedding_similarity,
    style_loss,
)


def test_reconstruction_error_sums_squares_of_each_image():
    a = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    b = torch.tensor([[[[0.0, 0.0]]], [[[0.0, 1.0]]]])
    assert reconstruction_error(a, b).tolist() == [1.0, 0.5]


def test_kl_divergence_is_torchs_in_float64():
    mu, log_var = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    expected = torch_kl(Normal(mu, (0.5 * log_var).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(dim=1)
    torch.testing.assert_close(kl_divergence(mu, log_var), expected)
    single = kl_divergence(mu.float(), log_var.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_reversed_similarity_of_equal_embeddings_is_zero_and_of_orthogonal_ones_known():
    a = torch.tensor([[[[1.0, 0.0]]]])
    assert reversed_embedding_similarity([a, 3 * a], [a, 3 * a]).item() == pytest.approx(0.0, abs=1e-6)
    # One level: half the mean square of (1, -1) is 0.5, the cosine of orthogonal vectors adds 1.
    assert reversed_embedding_similarity([a], [a.flip(-1)]).item() == pytest.approx(1.5)


def test_reversed_similarity_reaches_both_embeddings():
    a, b = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    reversed_embedding_similarity([a], [b]).backward()
    assert a.grad.abs().sum() > 0
    assert b.grad.abs().sum() > 0


def test_encoder_objective_by_hand():
    # 16384 pixels, two images; the formula of eq. (2) spelled out with plain floats.
    rec, kl = [120.0, 80.0], [30.0, 50.0]
    fakes = [([60.0, 40.0], [20.0, 10.0]), ([90.0, 70.0], [35.0, 15.0])]
    expected = (0.5 * 100.0 + 1.0 * 40.0) / 16384
    for fake_rec, fake_kl in fakes:
        terms = [math.exp(-2 * (0.5 * r + 128.0 * k) / 16384) for r, k in zip(fake_rec, fake_kl, strict=True)]
        expected += 0.25 * sum(terms) / 2
    expected += 0.005 * 2.5
    loss = SoftIntroLoss().encoder(
        torch.tensor(rec).double(),
        torch.tensor(kl).double(),
        [(torch.tensor(r).double(), torch.tensor(k).double()) for r, k in fakes],
        torch.tensor(2.5).double(),
        16384,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_decoder_objective_by_hand():
    expected = (0.5 * 100.0 + 0.5 * (15.0 + 25.0) + 1e-8 * 0.5 * 0.5 * (50.0 + 80.0)) / 16384
    fakes = [
        (torch.tensor([60.0, 40.0]), torch.tensor([20.0, 10.0])),
        (torch.tensor([90.0, 70.0]), torch.tensor([35.0, 15.0])),
    ]
    loss = SoftIntroLoss().decoder(
        torch.tensor([120.0, 80.0]).double(), [(r.double(), k.double()) for r, k in fakes], 16384
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_encoder_wants_generated_kl_up_and_decoder_wants_it_down():
    kl = torch.tensor([10.0], requires_grad=True)
    rec, zero = torch.tensor([5.0]), torch.zeros(())
    loss = SoftIntroLoss()
    (up,) = torch.autograd.grad(loss.encoder(rec, rec, [(rec, kl)], zero, 16384), kl)
    (down,) = torch.autograd.grad(loss.decoder(rec, [(rec, kl)], 16384), kl)
    assert up < 0 < down


def test_gram_matrix_is_the_scaled_inner_product_of_channels():
    features = np.random.default_rng(0).random((2, 3, 4, 5))
    expected = np.einsum("bchw,bdhw->bcd", features, features) / (3 * 4 * 5)
    np.testing.assert_allclose(gram_matrix(torch.from_numpy(features)), expected)


def test_style_and_perceptual_losses_by_hand():
    # Two channels, one pixel each: Gram matrices [[4, 0], [0, 0]] / 2 and [[0, 0], [0, 1]] / 2.
    a, b = torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[1.0]]]])
    assert style_loss([a, a], [b, a]).item() == pytest.approx((2.0 + 0.5) / 4)
    assert perceptual_loss([a, a], [b, a]).item() == pytest.approx(1.5)


def test_the_discriminators_target_is_the_softened_mask_of_scipy():
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 40:60, 30:50] = 1.0
    softened = ndimage.gaussian_filter(mask[0, 0].double().numpy(), 10.0, truncate=3.5)
    composed, real = torch.full((1, 1, 12, 12), 0.25), torch.full((1, 1, 12, 12), 0.75)
    paper = np.mean((0.25 - (1 - softened)) ** 2) + 0.25**2
    assert SoftMaskAdversarialLoss().discriminator(real, composed, mask).item() == pytest.approx(paper, rel=1e-5)


def test_the_generators_adversarial_loss_counts_the_hole_alone():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    scores = torch.zeros(1, 1, 8, 8)
    scores[..., :4] = 0.5
    scores[..., 4:] = -7.0
    assert SoftMaskAdversarialLoss().generator(scores, mask).item() == pytest.approx(0.25)
    assert SoftMaskAdversarialLoss().generator(scores, torch.zeros_like(mask)).item() == 0.0
