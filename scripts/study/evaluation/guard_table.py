"""The guard's table: alarms on healthy slices and on images that are no T1w brain at the trained level."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image
from tqdm import tqdm

from ...common.errors import PhanesInputError
from ...common.files import write_atomically
from ...pipeline.guard import guard_scores, slice_features
from ...pipeline.inference import read_calibration
from ...space.template import GRID_AFFINE
from ...training.calibration import calibrate_guard
from ...training.skull import StripSkulld
from .wrong_images import LEVEL_INDEX, Slice, head_sections, wrong_images

HEALTHY = ("healthy, test", "healthy, test, without skull")
REGISTERED = ("T1w head", "other level")  # normalised by the brain, as the pipeline does after a registration


def guard_table(
    *heads: str,
    dataset_dir: str = "../shared/data/ixi_midaxial",
    bundle_root: str = "bundle",
    wrong: int = 20,
    false_alarm_rate: float = 0.05,
    update: bool = False,
) -> None:
    """Print the guard's alarms on healthy test slices and on many kinds of wrong image, as Markdown.

    A calibration without a guard gets one from dataset_dir/val, as the calibrate workflow makes it.

    Args:
        heads: NIfTI volumes of T1w heads, for sections at the trained level, at others, coronal and sagittal ones.
        dataset_dir: folder with val/ and test/, one healthy axial slice a subject (PNG).
        bundle_root: the bundle's folder.
        wrong: images of each kind that is made from test slices or from nothing.
        false_alarm_rate: of a guard that is calibrated here.
        update: calibrate the guard here in any case, and write it into the bundle's calibration.json.
    """
    parser = ConfigParser()
    parser.read_config(str(Path(bundle_root) / "configs" / "inference.json"))
    parser["bundle_root"] = bundle_root
    weights, file = (parser.get_parsed_content(name) for name in ("weights_file", "calibration_file"))
    calibration = read_calibration(file, weights)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()
    steps = list(parser.get_parsed_content("preprocessing").transforms)
    prepare = Compose(steps[[type(step).__name__ for step in steps].index("SelectSlicesd") :])

    record = calibration.get("guard")
    if record is None or update:
        batches = [{"image": batch} for batch in _prepared(_slices(Path(dataset_dir) / "val"), prepare)]
        record = calibrate_guard(network, batches, torch.device("cpu"), false_alarm_rate)
        if record is None:
            raise PhanesInputError(f"'{dataset_dir}/val' has too few slices for the guard.")
        if update:
            text = json.dumps({**calibration, "guard": record}, indent=4) + "\n"
            write_atomically(Path(file), lambda partial: partial.write_text(text, encoding="utf-8"))

    test = _slices(Path(dataset_dir) / "test")
    kinds: dict[str, Sequence[Slice]] = {HEALTHY[0]: test, **_of_heads(heads), **wrong_images(test[:wrong])}
    print("| images | n | alarms | median score |\n|---|---|---|---|")
    print(_row(HEALTHY[1], test, prepare, network, record), flush=True)
    for kind, images in kinds.items():
        print(_row(kind, images, prepare, network, record), flush=True)


def _row(kind: str, images: Sequence[Slice], prepare: Compose, network: Any, record: Mapping[str, Any]) -> str:
    scores = []
    for batch in _prepared(images, prepare, strip=kind == HEALTHY[1], registered=kind in REGISTERED):
        with torch.inference_mode():
            output = network(batch)
        scores.append(guard_scores(slice_features(batch, output[:, 3:], output[:, 2:3]).numpy(), record))
    found = np.concatenate(scores)
    return f"| {kind} | {len(found)} | {int((found > 1).sum())} | {np.median(found):.2f} |"


def _of_heads(heads: Sequence[str]) -> dict[str, list[Slice]]:
    sections: dict[str, list[Slice]] = {}
    for path in tqdm(heads, desc="heads"):
        image: Any = nib.as_closest_canonical(nib.load(path))
        for kind, found in head_sections(np.asarray(image.dataobj, dtype=np.float32), image.affine).items():
            sections.setdefault(kind, []).extend(found)
    return sections


def _slices(folder: Path) -> list[Slice]:
    files = sorted(folder.glob("*.png"))
    if not files:
        raise PhanesInputError(f"'{folder}' holds no PNG slices: give the folder above val and test as dataset_dir.")
    return [np.asarray(Image.open(file).convert("L"), dtype=np.float32) for file in files]


def _prepared(
    images: Sequence[Slice], prepare: Compose, strip: bool = False, registered: bool = False
) -> Iterator[torch.Tensor]:
    """Batches (B, 1, 128, 128) of slices on the template's grid, preprocessed as in inference."""
    affine = torch.from_numpy(GRID_AFFINE.copy())
    affine[2, 3] += LEVEL_INDEX
    stripper = StripSkulld("image")
    for first in range(0, len(images), 10):
        batch = []
        for array in images[first : first + 10]:
            tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, ..., None]
            meta = {"alignment": "mni", "brain_known": True} if registered else {}
            image = prepare({"image": MetaTensor(tensor, affine=affine, meta=meta)})["image"].as_tensor()[..., 0]
            batch.append(torch.as_tensor(stripper.strip(image)) if strip else image)
        yield torch.stack(batch)
