"""The restoration network starts as a copy, sees nothing in holes, knows its level and its other side."""

import pytest
import torch

from scripts.method.networks.restoration import COLUMNS, ROWS, RestorationNetwork
from scripts.space.levels import LEVELS_MM, SIZE, brain_of_levels

HEIGHTS = tuple(float(z) for z in range(-4, 6, 2))


def random_network(seed: int = 0) -> RestorationNetwork:
    """A network that changes its input: the last layer is random as well."""
    torch.manual_seed(seed)
    network = RestorationNetwork(HEIGHTS, widths=(8, 12, 16, 16))
    network.describe_levels(torch.randint(0, 255, (4, SIZE, SIZE, 5), dtype=torch.uint8), 100)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network.eval()


def slices(count: int, height: float = 0.0, seed: int = 1) -> torch.Tensor:
    images = torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return torch.cat([images, torch.full_like(images, height)], dim=1)


def test_number_of_parameters():
    assert sum(p.numel() for p in RestorationNetwork(LEVELS_MM).parameters()) == 1_315_720


def test_an_untrained_network_returns_the_slice():
    network = RestorationNetwork(HEIGHTS, widths=(8, 12))
    network.describe_levels(torch.full((2, SIZE, SIZE, 5), 100, dtype=torch.uint8), 100)
    x = slices(2)
    torch.testing.assert_close(network(x), x[:, :1])


def test_the_box_holds_the_brain_and_is_symmetric():
    brain = torch.from_numpy(brain_of_levels().copy())
    rows, columns = brain.any(dim=2).any(dim=1).nonzero(), brain.any(dim=2).any(dim=0).nonzero()
    assert ROWS[0] < rows.min()
    assert rows.max() < ROWS[1] - 1
    assert COLUMNS[0] < columns.min()
    assert columns.max() < COLUMNS[1] - 1
    assert COLUMNS[0] == SIZE - COLUMNS[1]
    assert (ROWS[1] - ROWS[0]) % 16 == 0
    assert (COLUMNS[1] - COLUMNS[0]) % 16 == 0


def test_around_the_box_the_slice_is_passed_through_and_no_lesion_is_seen():
    x = slices(2)
    restored, logit = random_network().restore(x)
    around = torch.ones(SIZE, SIZE, dtype=torch.bool)
    around[ROWS[0] : ROWS[1], COLUMNS[0] : COLUMNS[1]] = False
    assert torch.equal(restored[..., around], x[:, :1][..., around])
    assert torch.isneginf(logit[..., around]).all()
    assert torch.isfinite(logit[..., ~around]).all()


def test_what_lies_in_a_hole_is_not_looked_at():
    network, x = random_network(), slices(2)
    hole = torch.zeros(2, 1, SIZE, SIZE)
    hole[:, :, 50:70, 40:60] = 1
    other = x.clone()
    other[:, 0, 50:70, 40:60] = 0.9
    assert torch.equal(network.fill(x, hole), network.fill(other, hole))
    assert not torch.equal(network(x), network(other))


def test_an_empty_hole_changes_nothing():
    network, x = random_network(), slices(2)
    assert torch.equal(network.fill(x, torch.zeros(2, 1, SIZE, SIZE)), network(x))


@pytest.mark.parametrize("height", [2.0, 4.0])
def test_the_level_counts(height):
    network = random_network()
    assert not torch.allclose(network(slices(1, 0.0)), network(slices(1, height)))


def test_a_level_beyond_the_ends_is_the_last_one():
    network = random_network()
    assert torch.equal(network(slices(1, 4.0)), network(slices(1, 80.0)))


def test_the_other_side_counts():
    """A change on the right changes what is made of the left, far beyond the reach of the finest convolutions."""
    network, x = random_network(), slices(1)
    other = x.clone()
    other[:, 0, 60:64, 30:34] += 0.3
    change = (network(other) - network(x)).abs()[0, 0]
    assert change[60:64, SIZE - 34 : SIZE - 30].mean() > 3 * change[60:64, 60:64].mean()


def test_a_batch_equals_its_slices():
    network = random_network()
    x = torch.cat([slices(1, z, seed) for seed, z in enumerate(HEIGHTS)])
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(network(x), alone, atol=1e-6, rtol=0)


def test_results_lie_between_0_and_1():
    network = random_network()
    torch.nn.init.normal_(network.head.weight, std=5.0)
    assert network(slices(1)).min() >= 0
    assert network(slices(1)).max() <= 1


def test_a_network_whose_levels_were_never_described_gives_nan():
    network = RestorationNetwork(HEIGHTS, widths=(8, 12))
    torch.nn.init.normal_(network.head.weight)
    assert network(slices(1)).isnan().any()


def test_exported_program_equals_the_network():
    network, x = random_network(), slices(4)
    batch = torch.export.Dim("batch", min=1, max=128)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(x[:3]), network(x[:3]), atol=1e-6, rtol=0)


def test_onnx_equals_the_network(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, x = random_network(), slices(2)
    path = tmp_path / "restoration.onnx"
    torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), network(x), atol=1e-5, rtol=0)
