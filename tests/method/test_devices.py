"""One slice has one result, whatever it is computed on: `PHANES_DEVICE=cuda pytest tests/method/test_devices.py`."""

from __future__ import annotations

import os

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


@pytest.mark.parametrize("batch", [1, 4])
def test_a_slice_has_the_same_maps_on_the_cpu_and_on_the_device(batch: int) -> None:
    network, size = bundle_network(BUNDLE)
    heads = [torch.from_numpy(resize(head_slice(n) / 255.0, (size, size), order=1)).float() for n in range(batch)]
    images = torch.stack(heads)[:, None]
    images[:, :, 50:65, 40:55] *= 0.4  # something to replace
    with torch.inference_mode():
        expected = network(images)
        result = network.to(DEVICE)(images.to(DEVICE)).cpu()
    assert expected[:, 0].amax() > 0
    for channel in range(4):
        tolerance = 1e-3 * float(expected[:, channel].max())
        torch.testing.assert_close(result[:, channel], expected[:, channel], rtol=0, atol=tolerance)
