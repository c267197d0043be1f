"""Train the restoration network on a GPU that is at hand for a few minutes only.

1. On any machine, `python -m scripts pack_heads` puts the prepared training heads into one small file.
2. On the GPU's machine, `python -m scripts gpu` checks CUDA and trains until the time is over. Heads, lessons and
   network lie on the device.
3. It writes small files: the weights in half precision, the training curve, and the speed.
"""

from __future__ import annotations

import bz2
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.checkpoints import save_state
from ..common.errors import PhanesInputError
from ..common.files import write_atomically
from ..method.networks.restoration import COLUMNS, ROWS
from ..space.levels import GRID
from .restoration import fit, read_heads, start

LARGEST_PACKED = 50 * 2**20  # bytes
LARGEST_WEIGHTS = 16 * 2**20
COARSENESS = 2  # grey values that are stored as one; they differ by less than noise does
BATCH = 64  # less does not keep a GPU busy
RESERVE = 30.0  # seconds kept for writing the files and for copying them back


def pack(dataset_dir: str, out: str = "heads.packed") -> str:
    """Put the training heads that `prepare` wrote into one file of at most 50 MiB.

    Args:
        dataset_dir: the folder that `prepare` wrote; its `train` is read.
        out: the file.

    Returns:
        The file.

    Raises:
        PhanesInputError: there are no heads, or too many for the file's limit.
    """
    heads = read_heads(Path(dataset_dir) / "train")
    seen = heads[:, slice(*ROWS), slice(*COLUMNS)].numpy() // COARSENESS
    content = bz2.compress(json.dumps({"heads": len(seen)}).encode() + b"\n" + seen.tobytes())
    if len(content) > LARGEST_PACKED:
        raise PhanesInputError(
            f"{len(seen)} heads make {len(content) / 2**20:.0f} MiB, at most {LARGEST_PACKED / 2**20:.0f} are taken: "
            "give a folder with fewer."
        )
    write_atomically(Path(out), lambda partial: partial.write_bytes(content))
    return out


def unpack(file: str | Path) -> Tensor:
    """The heads of a packed file: (N, 128, 128, D) uint8, 0 outside of the part of the field that is looked at.

    Raises:
        PhanesInputError: the file is not one of packed heads.
    """
    try:
        header, _, content = bz2.decompress(Path(file).read_bytes()).partition(b"\n")
        count = int(json.loads(header)["heads"])
        seen = np.frombuffer(content, dtype=np.uint8)
        seen = seen.reshape(count, ROWS[1] - ROWS[0], COLUMNS[1] - COLUMNS[0], GRID[2])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise PhanesInputError(
            f"'{file}' is no file of packed heads: make it with `python -m scripts pack_heads`."
        ) from error
    heads = torch.zeros(count, *GRID, dtype=torch.uint8)
    middle = (COARSENESS - 1) // 2
    heads[:, slice(*ROWS), slice(*COLUMNS)] = torch.from_numpy(seen * COARSENESS + middle)
    return heads


def train_on_gpu(
    packed: str = "heads.packed",
    out: str = ".",
    minutes: float = 12.0,
    steps: int = 10**6,
    batch: int = BATCH,
    device: str = "cuda",
    seed: int = 0,
) -> str:
    """Check the GPU, then train the restoration network until `minutes` are over.

    Args:
        packed: file that `pack_heads` made.
        out: folder for `restoration.pt` (averaged weights, half precision), `curve.csv` and `gpu.json`.
        minutes: time from the start of this function to its end.
        steps: number of training steps, at most.
        batch: lessons a step.
        device: `cuda`, or `cpu` for a rehearsal.
        seed: of weights and lessons.

    Returns:
        The file of weights.

    Raises:
        PhanesInputError: there is no CUDA device, the time is too short, or the weights are too large.
    """
    began = time.monotonic()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise PhanesInputError("No CUDA device was found: check the driver, or rehearse with --device cpu.")
    network, maker = start(unpack(packed), seed, device)
    folder = Path(out)
    left = minutes - (time.monotonic() - began + RESERVE) / 60
    if left <= 0:
        raise PhanesInputError(f"{minutes:g} minutes are over before training begins: give more --minutes.")
    ready = time.monotonic()
    weights = torch.load(
        fit(network, maker, folder / "run", steps, batch, minutes=left, resume=False), weights_only=True
    )
    trained = time.monotonic() - ready
    done = int(torch.load(folder / "run" / "checkpoint.pt", weights_only=True)["step"])
    report = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
        "torch": torch.__version__,
        "seconds_to_start": round(ready - began, 1),
        "seconds_of_training": round(trained, 1),
        "steps": done,
        "batch": batch,
        "seconds_a_step": round(trained / done, 4),
    }
    small = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_state(small, folder / "restoration.pt")
    if (size := (folder / "restoration.pt").stat().st_size) > LARGEST_WEIGHTS:
        raise PhanesInputError(
            f"The weights take {size / 2**20:.0f} MiB, at most {LARGEST_WEIGHTS / 2**20:.0f} fit: "
            "make the network smaller."
        )
    write_atomically(folder / "gpu.json", lambda partial: partial.write_text(json.dumps(report, indent=2)))
    return str(folder / "restoration.pt")
