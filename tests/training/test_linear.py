"""The closed-form stage's fit: what it finds, and that moments of two sets of heads add up to those of both."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo

from scripts.common.errors import PhanesInputError
from scripts.method.networks.linear import LinearAutoencoder
from scripts.space.levels import GRID, LEVELS_MM, brain_of_levels
from scripts.training.linear import fit_linear, level_moments, train_linear
from scripts.training.prepared import write_prepared
from tests.conftest import BUNDLE
from tests.method.networks.test_linear import HEIGHTS, brain_mask, random_heads


def fitted(heads: torch.Tensor, components: int = 6) -> LinearAutoencoder:
    network = LinearAutoencoder(brain_mask(), HEIGHTS, components)
    train_linear(network, heads, brain_mask())
    return network


def test_mean_and_components_are_those_of_the_deviations_of_three_levels():
    brain, heads = brain_mask(), random_heads(30, brain_mask())
    network, level = fitted(heads), 2
    at = slice(int(network.starts[level]), int(network.starts[level] + network.counts[level]))
    images = 2 * heads.double()
    own = images[:, brain[..., level]][..., level]
    torch.testing.assert_close(network.mean[at].double(), own.mean(0), atol=1e-3, rtol=0)
    near = [images[:, brain[..., level]][..., k] for k in (1, 2, 3)]
    rows = torch.cat([x - x.mean(0) for x in near])
    covariance = rows.T @ rows / len(rows)
    scale, directions = torch.linalg.eigh(covariance)
    best = (directions[:, -6:] * scale[-6:]) @ directions[:, -6:].T
    components = network.components[at].double()
    torch.testing.assert_close(components @ components.T, best, atol=1e-4, rtol=0)
    torch.testing.assert_close(network.variances[level].double(), scale.flip(0)[:6], atol=1e-5, rtol=1e-3)


def test_moments_of_two_sites_add_up_to_those_of_both():
    brain, heads = brain_mask(), random_heads(40, brain_mask())
    heads[25:] *= 0.8  # the second site differs in brightness
    together = level_moments(heads, brain)
    added = level_moments(heads[:25], brain) + level_moments(heads[25:], brain)
    assert added.heads == 40
    torch.testing.assert_close(added.mean, together.mean, atol=1e-6, rtol=0)
    for ours, theirs in zip(added.factors, together.factors, strict=True):
        torch.testing.assert_close(ours.T @ ours, theirs.T @ theirs, atol=1e-4, rtol=1e-4)


def test_many_heads_are_kept_in_few_rows(monkeypatch):
    """Beyond RANK rows the largest variances are kept."""
    monkeypatch.setattr("scripts.training.linear.RANK", 60)
    monkeypatch.setattr("scripts.training.linear.BLOCK", 16)
    heads = random_heads(40, brain_mask())
    moments = level_moments(heads, brain_mask())
    assert max(len(factor) for factor in moments.factors) == 60
    x = torch.cat([heads[:1].permute(3, 0, 1, 2), torch.tensor(HEIGHTS).view(-1, 1, 1, 1).expand(5, 1, 24, 24)], dim=1)
    compressed = fitted(heads)(x)
    monkeypatch.undo()
    torch.testing.assert_close(compressed, fitted(heads)(x), atol=5e-3, rtol=0)


def test_few_heads_leave_spare_components_at_zero():
    network = fitted(random_heads(2, brain_mask()), components=20)
    assert not network.components.isnan().any()
    assert network.components[:, 10:].abs().max() == 0


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_heads_are_refused(count):
    with pytest.raises(PhanesInputError, match="head"):
        fitted(random_heads(2, brain_mask())[:count])


def test_the_same_heads_give_the_same_fit():
    heads = random_heads(10, brain_mask()).contiguous()
    first, second = fitted(heads), LinearAutoencoder(brain_mask(), HEIGHTS, 6)
    fit_linear(second, level_moments(heads, brain_mask()))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


CONFIG = "configs/train_linear.json"


def prepared(folder, count):
    """Heads as `prepare` writes them."""
    (folder / "train").mkdir(parents=True)
    for seed in range(count):
        head = np.random.default_rng(seed).normal(1, 0.1, GRID)
        head[:4] = 2.5  # fat
        write_prepared(folder / "train" / f"{seed}.nii.gz", head)
    return folder


def train(folder, out, **options):
    workflow = ConfigWorkflow(
        str(BUNDLE / CONFIG),
        logging_file=False,
        workflow_type="train",
        run_id="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(folder),
        output_dir=str(out),
        **options,
    )
    workflow.initialize()
    workflow.run()


def test_the_config_fits_prepared_heads(tmp_path, capsys):
    train(prepared(tmp_path / "data", 3), tmp_path / "out")
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert "3 heads in" in capsys.readouterr().out
    network = LinearAutoencoder(brain_of_levels(), LEVELS_MM)
    network.load_state_dict(state)
    assert all(value.isfinite().all() for value in state.values())
    assert network.mean.float().mean() == pytest.approx(1.0, abs=0.01)  # in units of the median
    deviation = 0.1 * (2 / 3) ** 0.5  # of three heads from their mean
    assert network.components.float().square().sum(dim=1).mean() ** 0.5 == pytest.approx(deviation, rel=0.1)


def test_one_level_is_fitted_to_that_level_alone(tmp_path):
    train(prepared(tmp_path / "data", 3), tmp_path / "out", levels_mm=[23])
    network = LinearAutoencoder(brain_of_levels([23]), [23])
    network.load_state_dict(torch.load(tmp_path / "out" / "model.pt", weights_only=True))
    assert network.mean.float().mean() == pytest.approx(1.0, abs=0.01)


def test_on_the_command_line_a_folder_without_heads_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "train", "--bundle_root", str(BUNDLE)]
    options = ["--config_file", str(BUNDLE / CONFIG), "--dataset_dir", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"Error: No prepared heads (*.nii.gz) in '{tmp_path}/train': make")


def test_a_federated_client_is_refused_before_anything_is_read(tmp_path):
    """Components of several sites cannot be averaged, and the moments of a few heads are the heads."""
    options = {"bundle_root": str(BUNDLE), "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    client = MonaiAlgo(
        bundle_root=str(BUNDLE), config_train_filename=CONFIG, train_kwargs=options, config_evaluate_filename=None
    )
    with pytest.raises(Exception, match="Failed to instantiate") as raised:
        client.initialize()
    cause = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, PhanesInputError)
    assert "not by several sites" in str(cause)
    assert not list(tmp_path.iterdir())


def test_moments_of_a_few_heads_are_the_heads():
    """Why no site should send them: the deviations can be read off."""
    heads = random_heads(4, brain_mask())
    moments = level_moments(heads, brain_mask())
    level, inside = 2, brain_mask()[..., 2]
    shown = moments.factors[level].reshape(4, 3, -1)[:, 1] + moments.mean[..., level][inside]
    torch.testing.assert_close(shown / 2, heads[..., level][:, inside], atol=1e-5, rtol=0)
