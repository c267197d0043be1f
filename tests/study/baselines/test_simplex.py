"""Simplex noise: its arithmetic, range, seeds, smoothness and octaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scripts.study.baselines.simplex import GRADIENTS, SimplexNoise, permutation_table, simplex_noise


def noise_of_a_point(x: float, y: float, z: float, table: list[int]) -> float:
    """Simplex noise of one point in plain Python, the corners found by case distinction (Gustavson 2005)."""
    s = (x + y + z) / 3
    i, j, k = math.floor(x + s), math.floor(y + s), math.floor(z + s)
    t = (i + j + k) / 6
    x0, y0, z0 = x - (i - t), y - (j - t), z - (k - t)
    if x0 >= y0:
        if y0 >= z0:
            second, third = (1, 0, 0), (1, 1, 0)
        elif x0 >= z0:
            second, third = (1, 0, 0), (1, 0, 1)
        else:
            second, third = (0, 0, 1), (1, 0, 1)
    elif y0 < z0:
        second, third = (0, 0, 1), (0, 1, 1)
    elif x0 < z0:
        second, third = (0, 1, 0), (0, 1, 1)
    else:
        second, third = (0, 1, 0), (1, 1, 0)
    total = 0.0
    for n, (a, b, c) in enumerate([(0, 0, 0), second, third, (1, 1, 1)]):
        dx, dy, dz = x0 - a + n / 6, y0 - b + n / 6, z0 - c + n / 6
        gradient = GRADIENTS[table[(i + a + table[(j + b + table[(k + c) % 256]) % 256]) % 256] % 12]
        weight = max(0.5 - dx * dx - dy * dy - dz * dz, 0.0) ** 4
        total += weight * (gradient[0] * dx + gradient[1] * dy + gradient[2] * dz)
    return 76.883 * total


def test_equals_the_textbook_point_by_point() -> None:
    table = permutation_table(3)
    points = (torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.3) * 700
    expected = [noise_of_a_point(*point, table.tolist()) for point in points.tolist()]
    np.testing.assert_allclose(simplex_noise(*points.unbind(1), table).numpy(), expected, atol=1e-9)


def test_lies_in_its_range_with_zero_mean() -> None:
    points = torch.rand(400_000, 3, generator=torch.Generator().manual_seed(1)) * 200
    noise = simplex_noise(*points.unbind(1), permutation_table(0))
    assert noise.abs().max() <= 1.0
    assert noise.abs().max() > 0.95
    assert abs(float(noise.mean())) < 0.005
    assert float(noise.std()) == pytest.approx(SimplexNoise.STD, rel=0.02)


def test_is_continuous_across_its_simplices() -> None:
    start = torch.rand(2000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 20
    step = 1e-4
    table = permutation_table(0)
    here, there = simplex_noise(*start.unbind(1), table), simplex_noise(*(start + step).unbind(1), table)
    assert (here - there).abs().max() < 20 * step


def test_same_seed_same_field_and_another_seed_another() -> None:
    noise, steps = SimplexNoise(), torch.tensor([10, 500])
    first = noise((64, 64), steps, seed=1)
    assert first.shape == (2, 1, 64, 64)
    assert torch.equal(first, noise((64, 64), steps, seed=1))
    other = noise((64, 64), steps, seed=2)
    correlation = np.corrcoef(first.flatten(), other.flatten())[0, 1]
    assert abs(correlation) < 0.5
    assert not torch.allclose(first, other)


def test_equal_steps_share_the_field_and_near_steps_resemble_each_other() -> None:
    field = SimplexNoise(octaves=1)((64, 64), torch.tensor([100, 100, 101, 400]), seed=0)
    assert torch.equal(field[0], field[1])
    assert (field[0] - field[2]).abs().max() < 0.1
    assert (field[0] - field[3]).abs().max() > 0.3


def test_octaves_halve_the_wavelength_and_fade_by_the_persistence() -> None:
    steps = torch.tensor([37])
    whole = SimplexNoise(octaves=6, persistence=0.8, frequency=64)((128, 128), steps, seed=4)
    parts = [0.8**i * SimplexNoise(octaves=1, frequency=64 / 2**i)((128, 128), steps, seed=4) for i in range(6)]
    torch.testing.assert_close(whole, torch.stack(parts).sum(dim=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spacing", [8.0, 16.0, 32.0])
def test_an_octaves_power_lies_around_one_cycle_in_its_spacing(spacing: float) -> None:
    noise = SimplexNoise(octaves=1, frequency=spacing)
    power = np.zeros((256, 129))
    for seed in range(4):
        power += np.abs(np.fft.rfft2(noise((256, 256), torch.tensor([5]), seed)[0, 0].numpy() * np.hanning(256))) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]) * spacing  # cycles a lattice spacing
    assert 0.5 < (radius * power).sum() / power.sum() < 1.1
    assert power[radius > 2.0].sum() < 0.02 * power.sum()
    assert power[radius < 0.15].sum() < 0.05 * power.sum()


def test_unit_variance_is_what_it_says() -> None:
    noise = SimplexNoise(unit_variance=True)
    fields = torch.cat([noise((128, 128), torch.tensor([97 * s]), seed=s) for s in range(12)])
    assert float(fields.std()) == pytest.approx(1.0, rel=0.1)
