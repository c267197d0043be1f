"""Checksums change with everything a result depends on and with nothing else."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from scripts.common.fingerprint import code_checksum, fingerprint
from scripts.study.baselines.maps import ResidualMap


def test_equal_things_have_equal_fingerprints():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    twin = copy.deepcopy(network)
    assert fingerprint(network) == fingerprint(twin)
    assert fingerprint(network.train()) == fingerprint(twin.eval())
    assert fingerprint({"a": 1, "b": [2.0, None]}) == fingerprint({"b": [2.0, None], "a": 1})
    assert fingerprint(torch.arange(4)) == fingerprint(torch.arange(8)[:4])


def test_a_weight_a_setting_or_a_class_makes_the_difference():
    torch.manual_seed(0)
    network = nn.Conv2d(1, 2, 3)
    changed = copy.deepcopy(network)
    changed.weight.data[0, 0, 0, 0] += 1e-6
    assert fingerprint(network) != fingerprint(changed)
    assert fingerprint(ResidualMap("residual")) != fingerprint(ResidualMap("squared"))
    assert fingerprint(nn.ReLU()) != fingerprint(nn.Sigmoid())
    assert fingerprint(np.zeros(4, np.float32)) != fingerprint(np.zeros((2, 2), np.float32))
    assert fingerprint(np.zeros(4, np.float32)) != fingerprint(np.zeros(4, np.int32))
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_an_object_that_holds_itself_ends():
    class Knot:
        def __init__(self) -> None:
            self.me = self
            self.value = 1

    first, second = Knot(), Knot()
    assert fingerprint(first) == fingerprint(second)
    second.value = 2
    assert fingerprint(first) != fingerprint(second)


def test_it_is_the_same_on_every_machine():
    assert fingerprint({"seed": 3}, np.arange(3, dtype=np.int64)) == (
        "daf832c43623f29c9cf717ab2006a226dc29d975a23e476ddd94b0b1d40dd15c"
    )


def test_the_codes_checksum_covers_instructions_of_its_rooms_and_neither_comments_nor_other_rooms(tmp_path):
    files = {"method/a.py": 'def f(x):\n    """Add."""\n    return x + 1\n', "study/b.py": "VALUE = 1\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_checksum(tmp_path, ["method"])
    (tmp_path / "method/a.py").write_text("# why\ndef f(x):\n    '''Add one.'''\n\n    return x + 1  # here\n")
    (tmp_path / "study/b.py").write_text("VALUE = 2\n")
    assert code_checksum(tmp_path, ["method"]) == before
    (tmp_path / "method/a.py").write_text("def f(x):\n    return x + 2\n")
    assert code_checksum(tmp_path, ["method"]) != before
    (tmp_path / "method/a.py").write_text(files["method/a.py"])
    (tmp_path / "method/c.py").write_text("")
    assert code_checksum(tmp_path, ["method"]) != before
    (tmp_path / "method/c.py").unlink()
    (tmp_path / "method/page.html").write_text("<p>")  # files that code reads count too
    assert code_checksum(tmp_path, ["method"]) != before
