"""Equation (4)."""

import torch

from scripts.method.anomaly_map import AnomalyMap
from scripts.method.filling import compose_pseudo_healthy


def test_the_anomaly_map_is_its_formula_and_zero_exactly_where_nothing_was_replaced():
    images = torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))
    mask = (images > 0.8).float()
    pseudo_healthy = compose_pseudo_healthy(images, 1 - images, mask)
    result = AnomalyMap()(images, pseudo_healthy, lambda a, b: 2 * a + b)
    assert (result[mask == 0] == 0).all()
    x = images.double()
    expected = (1 - 2 * x).abs() * (2 * (1 - x) + x)
    torch.testing.assert_close(result[mask == 1].double(), expected[mask == 1], atol=1e-6, rtol=0)
