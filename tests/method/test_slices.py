"""The folding of levels into the batch, and the quantile of a slice, against numpy."""

import numpy as np
import pytest
import torch

from scripts.method.slices import chunks, fold, joined, slice_quantile, unfold


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("q", [0.0, 0.5, 0.95, 0.99, 1.0])
def test_quantile_is_numpys_for_each_image(images, q):
    expected = [np.quantile(image.numpy(), q) for image in images]
    np.testing.assert_allclose(slice_quantile(images, q).flatten(), expected, atol=1e-6)


def test_a_volume_folds_to_the_batch_of_its_slices_and_back():
    volume = torch.rand(2, 3, 4, 5, 6)
    folded = fold(volume)
    assert folded.is_contiguous()
    assert torch.equal(folded, torch.stack([v[..., d] for v in volume for d in range(6)]))
    assert torch.equal(unfold(folded, volume), volume)
    assert torch.equal(unfold(folded[:, :1] + 1, volume), volume[:, :1] + 1)
    assert fold(unfold(folded, volume)).data_ptr() == folded.data_ptr(), "nothing is copied between two steps"


def test_a_batch_of_slices_stays_as_it_is(images):
    assert fold(images) is images
    assert unfold(images, images) is images


def test_chunks_hold_every_slice_once_and_training_takes_them_all_at_once():
    slices = torch.rand(70, 1, 2, 2)
    with torch.no_grad():
        assert [len(part) for part in chunks(slices)] == [32, 32, 6]
        assert torch.equal(joined(chunks(slices)), slices)
    assert len(chunks(slices)) == 1
