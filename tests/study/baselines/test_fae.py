"""FAE's dissimilarity against scikit-image, and that it finds what it was not trained on."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import structural_similarity

from scripts.study.baselines.fae import FAE, dissimilarity

from .conftest import SIZE, brain_like


def test_the_dissimilarity_is_one_minus_scikit_images_ssim() -> None:
    a, b = torch.rand(2, 3, 20, 20, dtype=torch.float32), torch.rand(2, 3, 20, 20)
    found = dissimilarity(a, b)
    for n in range(2):
        maps = [
            structural_similarity(
                x.double().numpy(), y.double().numpy(), win_size=5, data_range=1, use_sample_covariance=False, full=True
            )[1]
            for x, y in zip(a[n], b[n], strict=True)
        ]
        expected = np.clip(1 - np.stack(maps), 0, None).mean(axis=0)
        inner = slice(2, -2)  # scikit-image repeats the border, here the window is cut
        np.testing.assert_allclose(found[n, 0, inner, inner], expected[inner, inner], atol=1e-4)
    assert dissimilarity(a, a).abs().max() < 1e-5


def test_training_makes_healthy_slices_ordinary_and_a_lesion_stand_out(build) -> None:
    system = build("fae")
    assert isinstance(system, FAE)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(system.autoencoder.parameters(), 3e-3)
    healthy = brain_like(16, seed=3)
    first = float(system.training_loss(healthy)[0])
    system.train()
    for _ in range(40):
        optimizer.zero_grad()
        loss = system.training_loss(healthy)[0]
        loss.backward()
        optimizer.step()
    system.eval()
    assert float(system.training_loss(healthy)[0]) < 0.8 * first
    assert not any(p.requires_grad for p in system.backbone.parameters())
    image = brain_like(1, seed=9)
    lesion = image.clone()
    lesion[..., 26:38, 26:38] = torch.rand(12, 12)
    change = system.anomaly_map(lesion) - system.anomaly_map(image)
    assert change.shape == (1, 1, SIZE, SIZE)
    assert change[..., 26:38, 26:38].mean() > 3 * change.abs()[..., :12, :].mean()
