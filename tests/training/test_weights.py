"""Mean of two states, and the join of the two methods' weights."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from scripts.common.errors import PhanesInputError
from scripts.training.weights import join_weights, mean_weights


def save(folder, state, record=None):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "model.pt")
    if record:
        (folder / "calibration.json").write_text(json.dumps(record))
    return str(folder)


def test_the_mean_is_that_of_each_weight_and_counts_are_not_mixed(tmp_path):
    a, b = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    b(torch.rand(4, 3, 5, 5))
    files = []
    for name, network in (("a", a), ("b", b)):
        files.append(save(tmp_path / name, network.state_dict()) + "/model.pt")
    mixed = torch.load(mean_weights(*files, str(tmp_path / "c.pt"), share=0.7), weights_only=True)
    torch.testing.assert_close(mixed["running_mean"], 0.3 * a.running_mean + 0.7 * b.running_mean)
    assert int(mixed["num_batches_tracked"]) == 1


def test_other_networks_and_shares_are_refused(tmp_path):
    one = save(tmp_path / "a", {"w": torch.ones(2)}) + "/model.pt"
    two = save(tmp_path / "b", {"w": torch.ones(3)}) + "/model.pt"
    with pytest.raises(PhanesInputError, match="different networks"):
        mean_weights(one, two, str(tmp_path / "c.pt"))
    with pytest.raises(PhanesInputError, match=r"--share 1\.5"):
        mean_weights(one, one, str(tmp_path / "c.pt"), share=1.5)
    assert not (tmp_path / "c.pt").exists()


def test_the_joint_file_holds_either_method_once_and_both_records_name_it(tmp_path):
    old = {"network.a": torch.zeros(1), "mask.threshold": torch.zeros(()), "autoencoder.a": torch.zeros(1)}
    heads = save(tmp_path / "heads", old, {"weights_sha256": "x", "heads": {"label_threshold": 1.0}})
    new = {"autoencoder.a": torch.ones(1), "inpainter.a": torch.ones(1), "mask_threshold": torch.ones(())}
    paper = save(tmp_path / "paper", new, {"weights_sha256": "y", "label_threshold": 2.0})
    file = join_weights(heads, paper, heads)  # the heads' own folder
    joint = torch.load(file, weights_only=True)
    assert set(joint) == set(old) | set(new)
    assert joint["autoencoder.a"] == 1
    assert joint["network.a"] == 0
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    for name, key in (("calibration.json", "heads"), ("paper.json", "label_threshold")):
        record = json.loads((tmp_path / "heads" / name).read_text())
        assert record["weights_sha256"] == digest
        assert key in record


def test_a_folder_of_the_other_method_is_named(tmp_path):
    heads = save(tmp_path / "heads", {"network.a": torch.zeros(1)}, {"a": 1})
    with pytest.raises(PhanesInputError, match="holds no autoencoder"):
        join_weights(heads, heads, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
