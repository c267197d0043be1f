"""PHANES and PHANES-GT as evaluated systems; RA and SI-VAE as its first stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from scripts.study.baselines.protocol import AnomalySystem

Build = Callable[[str], AnomalySystem]


def test_phanes_hands_out_its_map_and_its_pseudo_healthy_image(build: Build, images: Tensor) -> None:
    system = build("phanes")
    outputs = system.network(images)
    found = system.analyse(images)
    assert torch.equal(found.anomaly_map, outputs[:, 0:1])
    assert torch.equal(found.reconstruction, outputs[:, 1:2])
    assert torch.equal(system.reconstruct(images), outputs[:, 1:2])


def test_phanes_without_calibration_is_refused(build: Build, images: Tensor) -> None:
    system = build("phanes")
    system.network.mask.threshold.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="no mask threshold"):
        system.analyse(images)


def test_phanes_gt_changes_and_marks_nothing_outside_the_true_mask(build: Build, images: Tensor) -> None:
    system = build("phanes_gt")
    masks = torch.zeros_like(images)
    masks[:, :, 20:30, 25:40] = 1.0
    found = system.analyse(images, masks)
    outside = masks == 0
    assert torch.equal(found.reconstruction[outside], images[outside])
    assert found.anomaly_map[outside].max() == 0
    assert average_precision_score(masks.flatten(), found.anomaly_map.flatten()) > 0.99


def test_phanes_gt_needs_the_masks(build: Build, images: Tensor) -> None:
    with pytest.raises(ValueError, match="needs the true masks"):
        build("phanes_gt").anomaly_map(images)


def test_ra_reconstructs_by_the_first_stages_mean(build: Build, images: Tensor) -> None:
    system = build("ra")
    mu, _, _ = system.autoencoder.encode(images)
    torch.testing.assert_close(system.reconstruct(images), system.autoencoder.decode(mu))
    error = (system.reconstruct(images) - images).square().mean()
    assert system.healthy_error(images) == error
