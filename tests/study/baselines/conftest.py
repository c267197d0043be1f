"""The systems at a size that costs nothing, for the tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor

from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.study.baselines.anoddpm import AnoDDPM
from scripts.study.baselines.backbones import Backbone
from scripts.study.baselines.dae import DAE
from scripts.study.baselines.fae import FAE
from scripts.study.baselines.linear import LinearPhanes
from scripts.study.baselines.maps import ResidualMap
from scripts.study.baselines.mkd import MKD
from scripts.study.baselines.patchcore import PatchCore
from scripts.study.baselines.phanes import PaperSystem, PhanesGroundTruth, PhanesSystem, PhanesWithout
from scripts.study.baselines.protocol import AnomalySystem
from scripts.study.baselines.reflect import Reflect
from scripts.study.baselines.residual_autoencoder import ResidualAutoencoder
from scripts.study.baselines.simplex import SimplexNoise
from scripts.study.baselines.vae import VAE
from scripts.study.baselines.zscore import ZScore
from tests.method.composed import composed

SIZE = 64


def brain_like(count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """Bright ellipses with some texture on black, (count, 1, size, size) in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    images = []
    for _ in range(count):
        a, b = rng.uniform(0.6, 0.9, 2)
        inside = (x / a) ** 2 + (y / b) ** 2 < 1
        waves = 0.1 * np.sin(rng.uniform(4, 9) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(4, 9) * y)
        images.append(inside * np.clip(0.6 + waves + 0.02 * rng.standard_normal(x.shape), 0, 1))
    return torch.from_numpy(np.stack(images)[:, None]).float()


def _vae() -> AnomalySystem:
    return VAE(ResidualMap(), image_size=SIZE, channels=(4, 8, 8), latent_dim=8)


def _dae() -> AnomalySystem:
    return DAE(ResidualMap(), channels=(8, 8, 16), groups=(2, 2, 2))


def _anoddpm() -> AnomalySystem:
    network = DiffusionModelUNet(
        2, 4, 4, num_res_blocks=1, channels=(8, 8), attention_levels=(False, False), norm_num_groups=4
    )
    scheduler = DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    return AnoDDPM(ResidualMap("squared"), network, scheduler, SimplexNoise(), sampling_steps=3, patch_size=2)


def _patchcore() -> AnomalySystem:
    torch.manual_seed(1)
    backbone = Backbone("squeezenet1_1", ["features.4", "features.7"], "random")
    system = PatchCore(backbone, embedding_dim=16, coreset_ratio=0.1)
    system.fit([brain_like(4, seed=5)])
    return system


def _mkd() -> AnomalySystem:
    torch.manual_seed(1)
    teacher = Backbone("squeezenet1_1", ["features.1", "features.4"], "random", normalize=False)
    return MKD(teacher, stages=((4,), (4,)), image_size=SIZE, map_layers=2)


def _fae() -> AnomalySystem:
    torch.manual_seed(1)
    backbone = Backbone("squeezenet1_1", ["features.1", "features.4"], "random")
    return FAE(backbone, image_size=SIZE, grid=16, channels=(8, 8))


def _reflect() -> AnomalySystem:
    small = {"spatial_dims": 2, "num_res_blocks": 1, "channels": (8, 8), "norm_num_groups": 4}
    plain = {"attention_levels": (False, False), "latent_channels": 2}
    autoencoder = AutoencoderKL(**small, **plain, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False)
    flow = DiffusionModelUNet(**small, in_channels=2, out_channels=2, attention_levels=(False, False))
    return Reflect(ResidualMap(), autoencoder, flow)


def _zscore() -> AnomalySystem:
    system = ZScore(image_size=SIZE)
    system.fit([brain_like(4, seed=5)])
    return system


def _linear_mid() -> LinearPhanes:
    system = LinearPhanes(image_size=SIZE, components=3)
    system.fit(brain_like(12, seed=5).split(5))
    return system


def _autoencoder() -> SoftIntroVAE:
    return SoftIntroVAE(image_size=SIZE, channels=(4, 8), latent_dim=8)


def _ra() -> AnomalySystem:
    return ResidualAutoencoder(ResidualMap("eq_residual_lpips", SpatialLPIPS("distilled")), _autoencoder(), "RA")


BUILDERS: dict[str, Callable[[], AnomalySystem]] = {
    "zscore": _zscore,
    "linear_mid": _linear_mid,
    "vae": _vae,
    "dae": _dae,
    "anoddpm": _anoddpm,
    "patchcore": _patchcore,
    "mkd": _mkd,
    "fae": _fae,
    "reflect": _reflect,
    "ra": _ra,
    "phanes": lambda: PhanesSystem(_linear_mid().network),
    "phanes_gt": lambda: PhanesGroundTruth(_linear_mid().network),
    "phanes_coarse": lambda: PhanesWithout(_linear_mid().network, ["second stage"]),
    "paper": lambda: PaperSystem(composed(_autoencoder(), AOTGenerator((4, 8, 8), blocks=1))),
}


@pytest.fixture
def build() -> Callable[[str], AnomalySystem]:
    """The tiny system of a key, in evaluation mode; two calls give equal weights."""

    def make(key: str) -> AnomalySystem:
        torch.manual_seed(0)
        return BUILDERS[key]().eval()

    return make


@pytest.fixture
def images() -> Tensor:
    """Four healthy slices."""
    return brain_like(4)
