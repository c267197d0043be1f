"""equalize_adapthist does to every image of a batch what scikit-image does to one."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, exposure
from skimage.transform import resize

from scripts.method.equalize import equalize_adapthist


def assert_equals_skimage(images: np.ndarray, **options) -> None:
    """Compare a (B, H, W) stack, equalised as one batch, with scikit-image's image by image."""
    expected = np.stack([exposure.equalize_adapthist(image, **options) for image in images])
    ours = equalize_adapthist(torch.from_numpy(images)[:, None], **options)[:, 0].numpy()
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def pictures(height: int, width: int, dtype=np.float32) -> np.ndarray:
    """Three photographs with smooth, dark and saturated areas."""
    sources = [data.camera(), data.moon(), data.page()]
    return np.stack([resize(source, (height, width), order=1) for source in sources]).astype(dtype)


@pytest.mark.parametrize("size", [(128, 128), (97, 130), (233, 197), (33, 129), (256, 256)])
def test_any_size_of_image(size):
    assert_equals_skimage(pictures(*size))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 7), (9, 16), (5, 40)])
def test_images_of_a_few_pixels(size):
    assert_equals_skimage(np.random.default_rng(0).random((3, *size), dtype=np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 7},
        {"kernel_size": 20},
        {"kernel_size": 128},
        {"clip_limit": 0.0},
        {"clip_limit": 0.001},
        {"clip_limit": 0.03},
        {"clip_limit": 1.0},
        {"nbins": 64},
        {"nbins": 100},
    ],
)
def test_every_option(options):
    assert_equals_skimage(pictures(128, 128), **options)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("size", [(128, 128), (97, 130)])
def test_constant_images(value, size):
    assert_equals_skimage(np.full((1, *size), value, dtype=np.float32))


def test_noise_binary_and_dark_images():
    noise = np.random.default_rng(1).random((2, 128, 128), dtype=np.float32)
    images = pictures(128, 128)
    for batch in (noise, (images > 0.5).astype(np.float32), images**3 * np.float32(0.3), np.round(images * 3) / 3):
        assert_equals_skimage(batch)


def test_double_precision_is_kept():
    assert_equals_skimage(pictures(64, 64, np.float64))


def test_histograms_chosen_to_scatter_the_excess():
    """Few bins in use, at irregular distances: the excess of a tile is then handed out in many small steps."""
    rng = np.random.default_rng(2)
    images = np.empty((8, 128, 128))
    for image in images:
        levels = rng.choice(253, size=40, replace=False) / 252
        image[:] = rng.choice(levels, size=image.shape, p=rng.dirichlet(np.full(40, 0.3)))
    assert_equals_skimage(images.astype(np.float32))


@pytest.mark.real_data
def test_real_slices(data_root):
    slices = []
    for path in sorted((data_root / "ixi_midaxial" / "val").glob("*.png"))[:8]:
        image = np.asarray(Image.open(path), dtype=np.float32)
        slices.append(resize(np.clip(image / np.percentile(image, 98), 0, 1), (128, 128), order=1))
    assert_equals_skimage(np.stack(slices).astype(np.float32))


def test_scripted_and_exported_programs_equal_skimage():
    class Equalize(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return equalize_adapthist(x)

    images = pictures(128, 128)
    batch = torch.from_numpy(images)[:, None]
    expected = np.stack([exposure.equalize_adapthist(image) for image in images])
    for program in (torch.jit.script(Equalize()), torch.export.export(Equalize(), (batch,)).module()):
        np.testing.assert_allclose(program(batch)[:, 0].numpy(), expected, atol=1e-5)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got \[3, 64, 64\]"):
        equalize_adapthist(torch.zeros(3, 64, 64))
