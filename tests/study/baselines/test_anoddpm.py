"""AnoDDPM: the reverse step against MONAI's scheduler, the visited steps, the noise it learns."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn

from scripts.study.baselines.anoddpm import AnoDDPM
from scripts.study.baselines.maps import ResidualMap
from scripts.study.baselines.simplex import SimplexNoise


def scheduler() -> DDPMScheduler:
    return DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)


class KnowsTheImage(nn.Module):
    """The perfect denoiser of known images: returns exactly the noise that was added."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = 2 * clean - 1
        self.steps: list[int] = []

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        self.steps.append(int(timesteps[0]))
        alpha_bar = scheduler().alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return (x - alpha_bar.sqrt() * self.clean) / (1 - alpha_bar).sqrt()


class Silent(nn.Module):
    """Predicts no noise at all."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        self.seen, self.steps = x, timesteps
        return torch.zeros_like(x)


def system(network: nn.Module, **options: object) -> AnoDDPM:
    return AnoDDPM(ResidualMap("squared"), network, scheduler(), SimplexNoise(), **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [1, 57, 199, 999])
def test_one_reverse_step_is_the_schedulers_own_but_for_the_noise(step: int) -> None:
    x, predicted = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    expected, _ = scheduler().step(predicted, step, x, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        system(Silent()).reverse_step(x, predicted, step, step - 1, noise), expected, atol=2e-4, rtol=1e-3
    )


def test_a_long_step_has_the_mean_and_variance_of_many_short_ones() -> None:
    """With the clean image known, one step from 150 to 50 is distributed as a hundred single ones."""
    torch.manual_seed(0)
    clean = torch.full((4000, 1, 1, 1), 0.3)
    model = system(Silent())
    alpha_bar = scheduler().alphas_cumprod
    x = alpha_bar[150].sqrt() * clean + (1 - alpha_bar[150]).sqrt() * 0.7

    def noise_at(y: Tensor, step: int) -> Tensor:
        return (y - alpha_bar[step].sqrt() * clean) / (1 - alpha_bar[step]).sqrt()

    far = model.reverse_step(x, noise_at(x, 150), 150, 50, torch.randn_like(x))
    near = x
    for step in range(150, 50, -1):
        near = model.reverse_step(near, noise_at(near, step), step, step - 1, torch.randn_like(x))
    assert float(far.mean()) == pytest.approx(float(near.mean()), abs=0.02)
    assert float(far.std()) == pytest.approx(float(near.std()), rel=0.06)


@pytest.mark.parametrize("count", [None, 1, 7, 40])
def test_a_perfect_denoiser_gives_the_image_back(count: int | None) -> None:
    images = torch.rand(2, 1, 16, 16)
    network = KnowsTheImage(images)
    reconstruction = system(network, start_step=40, sampling_steps=count).reconstruct(images)
    torch.testing.assert_close(reconstruction, images, atol=1e-4, rtol=1e-4)
    assert len(network.steps) == (count or 40)
    assert network.steps[0] == 39
    assert network.steps == sorted(network.steps, reverse=True)


def test_another_seed_is_another_reconstruction() -> None:
    images = torch.rand(1, 1, 32, 32)
    first, again, other = (
        system(Silent(), start_step=50, sampling_steps=5, seed=seed).reconstruct(images) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_the_loss_of_a_silent_network_is_the_noises_power_and_steps_stay_below_their_limit() -> None:
    torch.manual_seed(0)
    network = Silent()
    images = torch.zeros(16, 1, 64, 64)
    loss, _ = system(network, max_training_step=60, centred=False).training_loss(images)
    assert network.steps.max() < 60
    alpha_bar = scheduler().alphas_cumprod[network.steps].reshape(-1, 1, 1, 1)
    noise = network.seen / (1 - alpha_bar).sqrt()  # the images are 0
    assert float(loss) == pytest.approx(float(noise.square().mean()), rel=1e-4)


def test_pixels_folded_into_channels_come_back_in_place() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            assert x.shape[1:] == (4, 8, 8)
            return x

    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(system(Same(), patch_size=2).predict_noise(x, torch.tensor([1, 2])), x)


def test_steps_outside_the_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule's 1000 steps"):
        system(Silent(), start_step=1001)
    with pytest.raises(ValueError, match="between 1 and start_step"):
        system(Silent(), start_step=100, sampling_steps=101)


def test_the_authors_network_has_18_5_million_parameters() -> None:
    network = DiffusionModelUNet(
        2, 1, 1, num_res_blocks=1, channels=(128, 256, 256), attention_levels=(False, True, True), num_head_channels=256
    )
    assert sum(p.numel() for p in network.parameters()) == 18_500_993
