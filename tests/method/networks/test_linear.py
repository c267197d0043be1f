"""The closed-form stage is the posterior mean of a probabilistic PCA, reweighted, blind to what lies in a hole."""

import pytest
import torch

from scripts.method.networks.levels import level_index
from scripts.method.networks.linear import NOISE, REWEIGHTINGS, TAIL, LinearAutoencoder
from scripts.training.linear import train_linear

HEIGHTS = tuple(float(z) for z in range(-10, 0, 2))


def brain_mask(size: int = 24, levels: int = 5) -> torch.Tensor:
    """A ball-like brain: levels of different sizes."""
    rows, columns = torch.meshgrid(torch.arange(size) - 11.5, torch.arange(size) - 11.5, indexing="ij")
    radii = torch.tensor([4.0, 8.0, 10.0, 9.0, 6.0])[:levels]
    return (rows.square() + columns.square())[..., None] < radii.square()


def random_heads(count: int, brain: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Heads that differ in a few smooth ways, in [0, 1], brightness about 0.5."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(-1, 1, brain.shape[0])
    ways = torch.stack([torch.cos(k * rows[:, None] * 2 + j * rows[None] * 2) for k in range(3) for j in range(3)])
    amounts = 0.05 * torch.randn(count, brain.shape[2], 9, generator=generator)
    heads = 0.5 + torch.einsum("ndk,khw->nhwd", amounts, ways)
    return (heads + 0.01 * torch.randn(heads.shape, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="module")
def network():
    brain = brain_mask()
    network = LinearAutoencoder(brain, HEIGHTS, components=6)
    train_linear(network, random_heads(40, brain), brain)
    return network


def slices_of(head: torch.Tensor) -> torch.Tensor:
    """(H, W, D) -> (D, 2, H, W): the levels and their heights."""
    levels = head.permute(2, 0, 1)[:, None]
    planes = torch.tensor(HEIGHTS).view(-1, 1, 1, 1).expand_as(levels)
    return torch.cat([levels, planes], dim=1)


def oracle(network, level: int, image: torch.Tensor, hole: torch.Tensor | None) -> torch.Tensor:
    """The same by a dense solver in double precision: (H, W) -> the brain's pixels of the reconstruction."""
    at = slice(int(network.starts[level]), int(network.starts[level] + network.counts[level]))
    pixels, mean, basis = network.pixels[at], network.mean[at].double(), network.components[at].double()
    deviation = 2 * image.flatten()[pixels].double() - mean
    seen = torch.ones_like(deviation) if hole is None else (hole.flatten()[pixels] <= 0).double()
    weights = seen
    for _ in range(REWEIGHTINGS + 1):
        matrix = basis.T @ (weights[:, None] * basis) + NOISE * torch.eye(basis.shape[1], dtype=torch.float64)
        posterior = torch.linalg.solve(matrix, basis.T @ (weights * deviation))
        error = (deviation - basis @ posterior).abs()
        weights = seen / (1 + (error / (TAIL * error[seen > 0].median())).square())
    return (mean + basis @ posterior) / 2


@pytest.mark.parametrize("with_hole", [False, True])
def test_equals_a_dense_solver(network, with_hole):
    head = random_heads(1, brain_mask(), seed=5)[0]
    head[8:12, 8:12, 1:4] = 0.1  # a lesion
    x = slices_of(head)
    hole = torch.zeros_like(x[:, :1])
    hole[:, :, 8:12, 8:12] = 1
    result = network.fill(x, hole) if with_hole else network(x)
    for level in range(5):
        expected = oracle(network, level, x[level, 0], hole[level, 0] if with_hole else None)
        at = slice(int(network.starts[level]), int(network.starts[level] + network.counts[level]))
        actual = result[level].flatten()[network.pixels[at]].double()
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


def test_a_lesion_is_not_drawn(network):
    """Inside the lesion the reconstruction is nearer to the healthy original than to the lesion."""
    healthy = random_heads(1, brain_mask(), seed=6)[0]
    ill = healthy.clone()
    ill[9:12, 9:12, 2] = 0.1
    result = network(slices_of(ill))[2, 0, 9:12, 9:12]
    assert (result - healthy[9:12, 9:12, 2]).abs().max() < 0.06


def test_what_lies_in_a_hole_is_not_looked_at(network):
    x = slices_of(random_heads(1, brain_mask(), seed=7)[0])
    hole = torch.zeros_like(x[:, :1])
    hole[:, :, 6:14, 9:15] = 1
    other = x.clone()
    other[:, 0, 6:14, 9:15] = 0.9
    inside = torch.as_tensor(brain_mask()).permute(2, 0, 1)[:, None]
    first, second = network.fill(x, hole), network.fill(other, hole)
    assert torch.equal(first[inside], second[inside])


def test_a_hole_as_large_as_the_brain_gets_the_mean(network):
    x = slices_of(random_heads(1, brain_mask(), seed=7)[0])
    filled = network.fill(x, torch.ones_like(x[:, :1]))
    level = 2
    at = slice(int(network.starts[level]), int(network.starts[level] + network.counts[level]))
    torch.testing.assert_close(filled[level].flatten()[network.pixels[at]], network.mean[at].float() / 2)


def test_outside_of_the_brain_the_slice_is_passed_through(network):
    x = slices_of(random_heads(1, brain_mask(), seed=8)[0])
    outside = ~brain_mask().permute(2, 0, 1)[:, None]
    assert torch.equal(network(x)[outside], x[:, :1][outside])


def test_a_batch_equals_its_slices(network):
    x = slices_of(random_heads(1, brain_mask(), seed=9)[0])
    x = torch.cat([x, x.flip(0)])
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(network(x), alone, atol=1e-6, rtol=0)


def test_a_network_without_training_gives_nan():
    network = LinearAutoencoder(brain_mask(), HEIGHTS, components=4)
    assert network(slices_of(torch.full((24, 24, 5), 0.5))).isnan().any()


def test_heights_beyond_the_ends_take_the_end_and_others_the_nearest():
    heights = torch.tensor([-50.0, -10.0, -8.9, -3.2, 40.0]).view(-1, 1, 1)
    assert level_index(heights, -10.0, -2.0, 5).tolist() == [0, 0, 1, 3, 4]


def test_a_wrong_number_of_heights_is_refused():
    with pytest.raises(ValueError, match="4 heights for 5 levels"):
        LinearAutoencoder(brain_mask(), HEIGHTS[:4])


def test_exported_program_equals_the_network(network):
    x = slices_of(random_heads(1, brain_mask(), seed=10)[0])
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(x[:3]), network(x[:3]), atol=1e-6, rtol=0)


def test_onnx_equals_the_network(network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = slices_of(random_heads(1, brain_mask(), seed=11)[0])
    path = tmp_path / "linear.onnx"
    torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), network(x), atol=1e-5, rtol=0)
