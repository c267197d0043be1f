"""How the shipped weights come from files of trainings: the mean of two states, and two methods in one model.pt."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from ..common.checkpoints import read_state, save_state
from ..common.errors import PhanesInputError
from ..common.files import sha256_of_file, write_atomically
from ..method.phanes import OF_HEADS, OF_SLICES


def mean_weights(first: str, second: str, out: str, share: float = 0.5) -> str:
    """Mix two states of one network: the one knows rare heads better, the other draws more sharply.

    Args:
        first: weights, such as those of an early step of a training.
        second: weights of the same network, such as those of its last step.
        out: the file to write.
        share: weight of the second file, 0 to 1. The first has the rest.

    Returns:
        The file.

    Raises:
        PhanesInputError: a file is missing, the two are of different networks, or the share is not between 0 and 1.
    """
    if not 0.0 <= share <= 1.0:
        raise PhanesInputError(f"--share {share} is not between 0 and 1: give the second file's part, such as 0.7.")
    a, b = read_state(first), read_state(second)
    if {name: value.shape for name, value in a.items()} != {name: value.shape for name, value in b.items()}:
        raise PhanesInputError(f"'{first}' and '{second}' are weights of different networks: give two of one training.")
    # What is counted, such as batches, is not mixed: the second file's value stays.
    mixed = {n: a[n].lerp(value, share) if value.is_floating_point() else value for n, value in b.items()}
    save_state(mixed, out)
    return out


def join_weights(heads: str, paper: str, out: str) -> str:
    """Put the networks of whole heads and the paper's networks into one `model.pt`, as the bundle ships it.

    Args:
        heads: folder that `calibrate_heads.json` wrote.
        paper: folder that `calibrate.json` wrote.
        out: folder of the result: `model.pt`, `calibration.json` of the heads, `paper.json` of the paper's networks.
            It may be one of the two.

    Returns:
        The file of weights.

    Raises:
        PhanesInputError: a file is missing, or holds nothing of its method.
    """
    records: dict[str, dict[str, Any]] = {}
    joint: dict[str, Any] = {}
    for folder, own, name in ((heads, OF_HEADS, "calibration.json"), (paper, OF_SLICES, "paper.json")):
        state = {n: v for n, v in read_state(Path(folder) / "model.pt").items() if n.startswith(tuple(own))}
        if not state:
            raise PhanesInputError(f"'{Path(folder) / 'model.pt'}' holds no {own[0]}* weights: give the other folder.")
        file = Path(folder) / "calibration.json"
        if not file.is_file():
            raise PhanesInputError(f"'{file}' does not exist: it is written beside model.pt; calibrate again.")
        joint |= state
        records[name] = json.loads(file.read_text(encoding="utf-8"))
    weights = Path(out) / "model.pt"
    save_state(joint, weights)
    for name, record in records.items():
        content = json.dumps({**record, "weights_sha256": sha256_of_file(weights)}, indent=4).encode() + b"\n"
        write_atomically(Path(out) / name, partial(Path.write_bytes, data=content))
    return str(weights)
