"""What one optimisation step moves, checked against gradients taken the long way and against eq. (2)'s intent."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from scripts.method.filling import compose_pseudo_healthy
from scripts.method.networks.aot_gan import AOTGenerator, PatchDiscriminator
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE, sample_posterior
from scripts.training.features import FeatureTrunk
from scripts.training.holes import PublishedHoles
from scripts.training.losses import (
    SoftIntroLoss,
    kl_divergence,
    perceptual_loss,
    reconstruction_error,
    reversed_embedding_similarity,
    style_loss,
)
from scripts.training.steps import AutoencoderStep, InpainterStep, VAEStep
from tests.method.composed import composed

PIXELS = 32 * 32


def small_autoencoder() -> SoftIntroVAE:
    torch.manual_seed(0)
    # Frozen normalisation makes passes independent of one another, so that they can be repeated in the test.
    return SoftIntroVAE(image_size=32, channels=(4, 8), latent_dim=6, frozen_norm=True).train()


def moved(before: nn.Module, after: nn.Module) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return sum(float((a - b).detach().abs().sum()) for a, b in pairs)


@pytest.fixture
def images() -> torch.Tensor:
    # Smooth blobs: something a network can learn within a test.
    coarse = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    return nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


def test_the_step_is_the_two_updates_of_eq_2_taken_one_after_the_other(images):
    network, loss, images = small_autoencoder().double(), SoftIntroLoss(), images.double()
    reference = copy.deepcopy(network)
    step = AutoencoderStep(
        network, SGD(network.encoder.parameters(), 1.0), SGD(network.decoder.parameters(), 1.0), loss
    )
    torch.manual_seed(1)
    step(images)

    # The long way: two plain backward passes, the same noise drawn in the same order.
    torch.manual_seed(1)
    mu, log_var, embeddings = reference.encode(images)
    z = sample_posterior(mu, log_var)
    reconstruction, noise = reference.decode(z), torch.randn_like(mu)
    sample = reference.decode(noise)
    generated, similarity = [], None
    for fake in (reconstruction.detach(), sample.detach()):
        fake_mu, fake_log_var, fake_embeddings = reference.encode(fake)
        again = reference.decode(sample_posterior(fake_mu, fake_log_var))
        generated.append((reconstruction_error(fake, again), kl_divergence(fake_mu, fake_log_var)))
        if similarity is None:
            similarity = reversed_embedding_similarity(embeddings, fake_embeddings)
    rec, kl = reconstruction_error(images, reconstruction), kl_divergence(mu, log_var)
    loss.encoder(rec, kl, generated, similarity, PIXELS).backward()
    with torch.no_grad():
        for p in reference.encoder.parameters():
            p -= p.grad
    reference.zero_grad()
    reconstruction, sample = reference.decode(z.detach()), reference.decode(noise)
    generated = []
    for fake in (reconstruction, sample):
        fake_mu, fake_log_var, _ = reference.encode(fake)
        again = reference.decode(sample_posterior(fake_mu, fake_log_var).detach())
        generated.append((reconstruction_error(fake.detach(), again), kl_divergence(fake_mu, fake_log_var)))
    loss.decoder(reconstruction_error(images, reconstruction), generated, PIXELS).backward()
    with torch.no_grad():
        for p in reference.decoder.parameters():
            p -= p.grad
    for (name, a), b in zip(network.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def test_a_plain_vaes_step_is_one_descent_of_its_loss(images):
    """Both optimisers together take the step that one optimiser of all parameters would take."""
    network = small_autoencoder()
    expected, loss = copy.deepcopy(network), SoftIntroLoss(beta_rec=1.0)
    step = VAEStep(network, SGD(network.encoder.parameters(), 0.1), SGD(network.decoder.parameters(), 0.1), loss)
    torch.manual_seed(0)
    step(images)
    torch.manual_seed(0)
    mu, log_var, _ = expected.encode(images)
    again = expected.decode(sample_posterior(mu, log_var))
    kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(dim=1)
    (((images - again).square().flatten(1).sum(dim=1) + kl).mean() / images[0].numel()).backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.1 * parameter.grad
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def generated_kl(network: SoftIntroVAE) -> float:
    with torch.no_grad():
        fake = network.decode(torch.randn(64, 6, generator=torch.Generator().manual_seed(9)))
        mu, log_var, _ = network.encode(fake)
        return kl_divergence(mu, log_var).mean().item()


def test_the_encoder_raises_the_kl_of_generated_images_and_the_decoder_lowers_it(images):
    # Real images and reconstructions weigh nothing here, so that only the game between the two networks is left.
    loss = SoftIntroLoss(beta_rec=0.0, lambda_reversed=0.0)
    network = small_autoencoder()
    start = generated_kl(network)
    encoder_only = AutoencoderStep(
        network, SGD(network.encoder.parameters(), 0.05), SGD(network.decoder.parameters(), 0.0), loss
    )
    for _ in range(10):
        encoder_only(images)
    assert generated_kl(network) > start

    network = small_autoencoder()
    decoder_only = AutoencoderStep(
        network, SGD(network.encoder.parameters(), 0.0), SGD(network.decoder.parameters(), 5.0), loss
    )
    for _ in range(10):
        decoder_only(images)
    assert generated_kl(network) < start


def test_the_reversed_similarity_shrinks_when_it_is_weighted(images):
    def similarity_after(weight: float) -> float:
        network = small_autoencoder()
        loss = SoftIntroLoss(lambda_reversed=weight)
        step = AutoencoderStep(
            network, SGD(network.encoder.parameters(), 0.05), SGD(network.decoder.parameters(), 0.0), loss
        )
        torch.manual_seed(3)
        for _ in range(15):
            result = step(images)
        return result["reversed"].item()

    assert similarity_after(1.0) < similarity_after(0.0)


def test_detaching_the_rereconstruction_changes_the_encoders_step_only_when_asked(images):
    results = []
    for detach in (False, True):
        network = small_autoencoder()
        # A strong weight lets the exponential term's reconstruction gradient show.
        loss = SoftIntroLoss(beta_neg=0.0, beta_rec=1.0)
        step = AutoencoderStep(
            network, SGD(network.encoder.parameters(), 1.0), SGD(network.decoder.parameters(), 0.0), loss, detach
        )
        torch.manual_seed(1)
        step(images)
        results.append(network)
    assert moved(*results) > 1e-6


@pytest.fixture
def inpainting(tmp_path) -> InpainterStep:
    torch.manual_seed(0)
    torch.save(SpatialLPIPS("distilled").state_dict(), tmp_path / "trunk.pt")
    trunk = FeatureTrunk("distilled", str(tmp_path / "trunk.pt"))
    network = composed(
        SoftIntroVAE(image_size=32, channels=(4, 8), latent_dim=6),
        AOTGenerator(channels=(4, 8, 8), blocks=1, dilations=(1, 2)),
    ).eval()
    network.mask.threshold.fill_(10.0)
    torch.nn.init.constant_(network.inpainter.output.bias, 0.5)  # clear of the clamp to [0, 1]
    discriminator = PatchDiscriminator(channels=(4, 8))
    return InpainterStep(
        network,
        discriminator,
        torch.optim.Adam(network.inpainter.parameters(), 1e-2),
        torch.optim.Adam(discriminator.parameters(), 1e-2),
        trunk,
        PublishedHoles(network),
    )


def test_the_adversarial_term_really_reaches_the_generator(inpainting, images):
    def generator_after(weight: float) -> nn.Module:
        step = copy.deepcopy(inpainting)
        step.generator_optimizer = SGD(step.network.inpainter.parameters(), 1.0)
        step.weights = {**dict.fromkeys(step.weights, 0.0), "adversarial": weight}
        torch.manual_seed(2)
        step(images)
        return step.network.inpainter

    assert moved(generator_after(1.0), inpainting.network.inpainter) > 0
    assert moved(generator_after(0.0), inpainting.network.inpainter) == 0


def test_without_its_term_the_discriminator_is_left_out(inpainting, images):
    step = copy.deepcopy(inpainting)
    step.weights["adversarial"] = 0.0
    terms = step(images)
    assert not {"adversarial", "discriminator"} & set(terms)
    assert moved(step.discriminator, inpainting.discriminator) == 0
    assert moved(step.network.inpainter, inpainting.network.inpainter) > 0


def test_the_inpainter_learns_to_fill_holes_and_leaves_the_first_stage_alone(inpainting, images):
    autoencoder = copy.deepcopy(inpainting.network.autoencoder)
    constant = torch.full_like(images, 0.6)
    torch.manual_seed(0)
    losses = [inpainting(constant)["l1"].item() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert moved(autoencoder, inpainting.network.autoencoder) == 0


def test_the_inpainters_step_with_shared_features_is_the_two_updates_that_compute_everything_anew(inpainting, images):
    """Trunk and discriminator once for all their losses; here once for each, in float64, with plain backward passes."""
    step = copy.deepcopy(inpainting)
    for part in (step.network, step.discriminator.eval()):  # evaluated: each training pass estimates the norms anew
        part.double()
    step.trunk.double()
    network, discriminator = copy.deepcopy(step.network), copy.deepcopy(step.discriminator)
    step.generator_optimizer = SGD(step.network.inpainter.parameters(), 1.0)
    step.discriminator_optimizer = SGD(step.discriminator.parameters(), 1.0)
    x = images.double()
    torch.manual_seed(4)
    filled, masks = step.holes(x)
    torch.manual_seed(4)
    step(x)

    raw = network.inpainter(filled, masks)
    composed = compose_pseudo_healthy(x, raw, masks)
    terms = {
        "l1": (raw - x).abs().mean(),
        "style": style_loss(step.trunk(raw.clamp(0, 1))[0], step.trunk(x)[0]),
        "perceptual": perceptual_loss(step.trunk(raw.clamp(0, 1))[1], step.trunk(x)[1]),
        "adversarial": step.adversarial.generator(discriminator(composed), masks),
    }
    sum(step.weights[name] * value for name, value in terms.items()).backward()
    with torch.no_grad():
        for p in network.inpainter.parameters():
            p -= p.grad
    discriminator.zero_grad()
    scores = discriminator(x), discriminator(composed.detach())
    step.adversarial.discriminator(*scores, masks).backward()
    with torch.no_grad():
        for p in discriminator.parameters():
            p -= p.grad
    assert moved(step.network.inpainter, inpainting.network.inpainter.double()) > 1e-3
    assert moved(step.discriminator, inpainting.discriminator.double()) > 1e-3
    for plain, shared in ((network.inpainter, step.network.inpainter), (discriminator, step.discriminator)):
        for a, b in zip(shared.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
