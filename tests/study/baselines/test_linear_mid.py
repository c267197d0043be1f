"""The closed-form PHANES at one level: as whole heads of one level, whose mask's threshold is of slices held out."""

from __future__ import annotations

import pytest
import torch

from scripts.common.errors import PhanesInputError
from scripts.study.baselines.linear import HELD_OUT, LinearPhanes
from scripts.training.skull import template_brain_mask

from .conftest import SIZE, brain_like


@pytest.fixture(scope="module")
def system() -> LinearPhanes:
    system = LinearPhanes(image_size=SIZE, components=4)
    system.fit(brain_like(30, seed=5).split(8))
    return system.eval()  # type: ignore[return-value]


def test_a_dark_spot_is_found_and_filled(system: LinearPhanes) -> None:
    healthy = brain_like(2, seed=9)
    ill = healthy.clone()
    ill[:, :, 28:34, 28:34] *= 0.3
    anomaly, filled = system.analyse(ill)
    assert filled is not None
    for n in range(2):
        row, column = divmod(int(anomaly[n, 0].argmax()), SIZE)
        assert 28 <= row < 34
        assert 28 <= column < 34
    assert (filled - healthy)[..., 29:33, 29:33].abs().mean() < 0.4 * (ill - healthy)[..., 29:33, 29:33].abs().mean()


def test_brightness_does_not_matter(system: LinearPhanes) -> None:
    """Slices come in units of their 98th percentile, whole heads of their brain's median."""
    images = 0.7 * brain_like(2, seed=9)
    torch.testing.assert_close(system.anomaly_map(0.8 * images), system.anomaly_map(images), rtol=1e-2, atol=1e-2)


def test_the_threshold_is_that_of_slices_that_the_first_fit_had_not_seen() -> None:
    images = brain_like(12, seed=5)
    system = LinearPhanes(image_size=SIZE, components=3, percentile=90)
    system.fit([images])
    apart = torch.arange(12) % HELD_OUT == 0
    other = LinearPhanes(image_size=SIZE, components=3)
    other.fit([images[~apart]])
    brain = template_brain_mask(SIZE)
    maps = [
        other.network.mask.smooth(other.network.coarse(other.as_head(x)[0][..., None])[1])
        for x in images[apart].split(1)
    ]
    values = torch.cat([found[0, 0, ..., 0][brain] for found in maps])
    assert float(system.network.mask.threshold) == pytest.approx(float(values.quantile(0.9)), rel=1e-4)


def test_two_slices_are_too_few() -> None:
    with pytest.raises(PhanesInputError, match="at least two"):
        LinearPhanes(image_size=SIZE, components=3).fit([brain_like(2)])
