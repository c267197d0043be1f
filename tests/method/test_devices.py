"""One head has one result, whatever it is computed on: `make test-gpu`."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from skimage.transform import resize

from scripts.release.export import bundle_network
from tests.conftest import BUNDLE, head_slice

DEVICE = os.environ.get("PHANES_DEVICE", "cpu")
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" or not (BUNDLE / "models" / "model.pt").is_file(),
    reason="PHANES_DEVICE names a second device; the bundle has weights",
)


@pytest.mark.parametrize("levels", [1, 40])  # 40: more than go through the network together
def test_a_head_has_the_same_maps_on_the_cpu_and_on_the_device(levels: int) -> None:
    network = bundle_network(BUNDLE)
    slices = [resize(head_slice(n % 4) / 255.0, (128, 128), order=1) for n in range(levels)]
    head = torch.from_numpy(np.stack(slices, axis=-1)).float()
    head[50:65, 40:55] *= 0.4  # something to replace
    image = torch.stack([head, (2.0 * torch.arange(levels) - 20).expand_as(head)])[None]
    with torch.inference_mode():
        expected = network(image)
        result = network.to(DEVICE)(image.to(DEVICE)).cpu()
    assert expected[:, 0].amax() > 0
    for channel in range(4):
        tolerance = 1e-3 * float(expected[:, channel].max())
        torch.testing.assert_close(result[:, channel], expected[:, channel], rtol=0, atol=tolerance)
