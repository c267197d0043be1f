"""Federated training by MONAI's own client, with configuration alone: two sites, two rounds, weights averaged."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from PIL import Image
from torch import Tensor

from tests.conftest import BUNDLE, head_slice
from tests.method.composed import fill_threshold
from tests.training.test_train_configs import RECIPE, TINY, parser_of

FILES = ["configs/train.json", "configs/federated_train.json"]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """What the server starts with: a whole network."""
    torch.manual_seed(0)
    parser = parser_of("train.json", **TINY)
    network = parser.get_parsed_content("network_def")
    fill_threshold(network)
    return dict(network.state_dict())


def site(name: str, seed: int, folder: Path) -> MonaiAlgo:
    """A site with its own healthy slices; nothing of ours but the two configs."""
    for split, count in (("train", 4), ("val", 2)):
        (folder / name / split).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(head_slice(seed + n + 10 * count)).save(folder / name / split / f"{n}.png")
    options = {
        "bundle_root": str(BUNDLE),
        "dataset_dir": str(folder / name),
        "output_dir": str(folder / name / "run"),
        "device": "cpu",
        **TINY,
        **RECIPE,
        "batch_size": 2,
    }
    client = MonaiAlgo(
        bundle_root=str(BUNDLE),
        local_epochs=1,
        send_weight_diff=False,
        config_train_filename=FILES,
        train_kwargs=dict(options),
        config_evaluate_filename=FILES,
        eval_kwargs=dict(options),
        eval_workflow_name="train",
    )
    client.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return client


def test_two_sites_train_and_their_average_is_the_next_rounds_start(weights: dict[str, Tensor], tmp_path: Path) -> None:
    sites = [site("a", 100, tmp_path), site("b", 200, tmp_path)]
    held = copy.deepcopy(weights)
    errors = []
    for _ in range(2):
        replies = []
        for client in sites:
            before = client.evaluate(ExchangeObject(weights=copy.deepcopy(held))).metrics
            assert before is not None
            errors.append(before["val_mse"])
            client.train(ExchangeObject(weights=copy.deepcopy(held)), extra={})
            reply = client.get_weights()
            assert reply.weight_type == WeightType.WEIGHTS
            assert reply.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == 2
            replies.append({name: value.clone() for name, value in reply.weights.items()})
        first, second = replies
        assert set(first) == set(second) == set(weights)
        moved = {name for name in first if not torch.equal(first[name], held[name])}
        assert moved
        assert all(name.startswith("autoencoder") for name in moved)
        assert any(not torch.equal(first[name], second[name]) for name in moved)
        held = {name: ((first[name].double() + second[name].double()) / 2).to(value) for name, value in held.items()}
    # The averaged network is better on both sites' held-out slices than what they started from.
    final = [client.evaluate(ExchangeObject(weights=copy.deepcopy(held))).metrics["val_mse"] for client in sites]
    assert final[0] < errors[0]
    assert final[1] < errors[1]
    for client in sites:
        client.finalize()


def test_a_site_writes_what_it_had_last_even_where_an_earlier_round_was_better(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    client = site("a", 100, tmp_path)
    worse = dict(weights)
    bias = next(name for name in weights if name.endswith("decoder.output.bias"))
    worse[bias] = weights[bias] + 5
    for held in (weights, worse):
        client.train(ExchangeObject(weights=copy.deepcopy(held)), extra={})
        written = torch.load(tmp_path / "a" / "run" / "network.pt", weights_only=True)
        torch.testing.assert_close(written, dict(client.get_weights().weights), rtol=0, atol=0)
    client.finalize()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    client = site("a", 100, tmp_path)
    with pytest.raises(RuntimeError):
        client.train(ExchangeObject(weights={"encoder.weight": torch.zeros(1)}), extra={})
