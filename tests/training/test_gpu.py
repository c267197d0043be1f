"""A short GPU lease, rehearsed on the CPU: heads go there packed, small weights come back in time."""

import json
import time

import numpy as np
import pytest
import torch

from scripts.common.errors import PhanesInputError
from scripts.method.networks.restoration import COLUMNS, ROWS, RestorationNetwork
from scripts.space.levels import LEVELS_MM, brain_of_levels
from scripts.training import gpu
from scripts.training.gpu import LARGEST_WEIGHTS, pack, train_on_gpu, unpack
from scripts.training.prepared import BRAIN_VALUE, write_prepared
from scripts.training.restoration import read_heads


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        head = np.where(brain_of_levels(), 1.0, 0.2) * rng.uniform(0.8, 1.2)
        write_prepared(folder / "data/train" / f"{name}.nii.gz", head)
    return folder, pack(str(folder / "data"), str(folder / "heads.packed"))


def test_packed_heads_are_the_prepared_ones_to_a_grey_value(packed):
    folder, file = packed
    heads, box = read_heads(folder / "data/train"), (slice(None), slice(*ROWS), slice(*COLUMNS))
    unpacked = unpack(file)
    assert unpacked.shape == heads.shape
    assert (unpacked[box].int() - heads[box].int()).abs().max() <= 1
    assert unpacked.sum() == unpacked[box].sum()


def test_a_rehearsal_on_the_cpu_ends_in_time_with_small_weights(packed, tmp_path):
    began = time.monotonic()
    weights = train_on_gpu(packed[1], str(tmp_path), minutes=0.7, batch=2, steps=4, device="cpu")
    assert time.monotonic() - began < 42 + 20
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["device"] == "CPU"
    assert 1 <= report["steps"] <= 4
    state = torch.load(weights, weights_only=True)
    assert all(value.dtype == torch.float16 for value in state.values())
    assert (tmp_path / "restoration.pt").stat().st_size < LARGEST_WEIGHTS
    network = RestorationNetwork(LEVELS_MM)
    network.load_state_dict(state)
    assert not network(torch.full((1, 2, 128, 128), 0.5)).isnan().any()


def test_too_little_time_is_refused(packed, tmp_path):
    with pytest.raises(PhanesInputError, match="over before training begins"):
        train_on_gpu(packed[1], str(tmp_path), minutes=0.1, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_says_so(packed, tmp_path):
    with pytest.raises(PhanesInputError, match="No CUDA device"):
        train_on_gpu(packed[1], str(tmp_path))


def test_too_many_heads_for_the_file_are_refused(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LARGEST_PACKED", 1000)
    with pytest.raises(PhanesInputError, match="3 heads make"):
        pack(str(packed[0] / "data"), str(tmp_path / "heads.packed"))
    assert not (tmp_path / "heads.packed").exists()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_holds_no_heads_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PhanesInputError, match="is no file of packed heads"):
        unpack(tmp_path / "x")


def test_brightness_is_kept(packed):
    brain = torch.from_numpy(brain_of_levels().copy())
    medians = [head[brain].float().median().item() for head in unpack(packed[1])]
    assert all(0.75 * BRAIN_VALUE < median < 1.25 * BRAIN_VALUE for median in medians)
