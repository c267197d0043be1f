"""PHANES and PHANES-GT as evaluated systems; RA and SI-VAE as its first stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from scripts.common.errors import PhanesInputError
from scripts.method.head import HeadPhanes
from scripts.space.levels import LEVEL_BRIGHTNESS, LEVELS_MM
from scripts.study.baselines.phanes import PhanesSystem
from scripts.study.baselines.protocol import AnomalySystem
from scripts.training.skull import template_brain_mask

from .conftest import SIZE

Build = Callable[[str], AnomalySystem]


def test_the_papers_row_is_its_network(build: Build, images: Tensor) -> None:
    system = build("paper")
    outputs = system.network(images)
    found = system.analyse(images)
    assert torch.equal(found.anomaly_map, outputs[:, 0:1])
    assert torch.equal(found.reconstruction, outputs[:, 1:2])
    assert torch.equal(system.reconstruct(images), outputs[:, 1:2])


def test_the_method_sees_slices_in_units_of_its_heads(build: Build, images: Tensor) -> None:
    """Half a head's brightness is 0.5: the slice's median over its level's share, which `LevelsOfHeadd` takes too."""
    system = build("phanes")
    images = 0.8 * images
    images[:, :, 2, 2] = 1.0  # fat, outside of the brain
    x, _ = system.as_head(images)
    brain = template_brain_mask(images.shape[-1])
    share = LEVEL_BRIGHTNESS[LEVELS_MM.index(23.0)]
    for slice_, seen in zip(images, x, strict=True):
        values = slice_[0][brain].sort().values
        median = values[(len(values) - 1) // 2]
        torch.testing.assert_close(seen[0], (0.5 * slice_[0] * share / median).clamp(max=1))
        assert (seen[1] == 23).all()
    outputs = system.outputs(images)
    direct = system.network(x)
    assert torch.equal(outputs[:, [0, 2]], direct[:, [0, 2]])
    outside = direct[:, 2:3] == 0
    assert torch.equal(outputs[:, 1:2][outside], images[outside])


def test_a_network_of_whole_heads_is_refused() -> None:
    brain = torch.ones(SIZE, SIZE, 2)
    with pytest.raises(PhanesInputError, match=r"z = \+21 to \+23 mm, .* add mid_axial\.json"):
        PhanesSystem(HeadPhanes(torch.nn.Identity(), brain, (21.0, 23.0)))


def test_the_coarse_stage_draws_in_the_slices_units(build: Build, images: Tensor) -> None:
    found = build("phanes_coarse").analyse(images)
    brain = template_brain_mask(images.shape[-1])
    assert (found.reconstruction - images).abs()[:, 0, brain].mean() < 0.1 * images[:, 0, brain].mean()


def test_phanes_without_calibration_is_refused(build: Build, images: Tensor) -> None:
    system = build("phanes")
    system.network.mask.threshold.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="no mask threshold"):
        system.analyse(images)


def test_phanes_gt_changes_and_marks_nothing_outside_the_true_mask(build: Build, images: Tensor) -> None:
    system = build("phanes_gt")
    masks = torch.zeros_like(images)
    masks[:, :, 26:36, 25:40] = 1.0
    images = images * (1 - 0.5 * masks)
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
