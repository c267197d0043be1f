"""What it costs when a single slice does not say where it lies: the same strokes in aligned and in moved slices.

Inference takes a slice on the template's grid as it lies. It must first place the same slice when that is padded,
resampled, turned or shifted. The known movement carries the anomaly map back. The pixels of the aligned slice are
scored.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from ..common.checkpoints import load_network
from ..common.configs import from_inference
from ..common.errors import PhanesInputError
from ..space.geometry import LEVEL_MM
from ..space.levels import SIZE
from ..space.template import brain_on_grid
from .evaluation.metrics import average_precision, rank
from .evaluation.synthetic import StrokeLesions, subject_rng
from .evaluation.tables import show

SHAPE = (233, 197)  # of an aligned slice, pixels of 1 mm
BLUR = 0.4  # before pixels become larger: standard deviation, in new pixels


def movements(subject: str) -> dict[str, tuple[NDArray, tuple[int, int]]]:
    """Movements by name: the map (3, 3) from a new (row, column) to the aligned one, and the new shape."""
    rng = np.random.default_rng(subject_rng(0, subject, "slice_trials").integers(2**32))
    angle, mm = np.radians(rng.uniform(-10, 10)), rng.uniform(0.8, 1.2)
    turn = mm * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return {
        "aligned, 197 x 233": (np.eye(3), SHAPE),
        "128 x 128": (_about(233 / 128 * np.eye(2), np.zeros(2), 128), (128, 128)),
        "512 x 512, padded": (_about(0.5 * np.eye(2), np.zeros(2), 512), (512, 512)),
        "320 x 320, turned, shifted and scaled": (_about(turn, rng.uniform(-12, 12, 2), 320), (320, 320)),
    }


def _about(linear: NDArray, shift: NDArray, size: int) -> NDArray:
    """The map from the middle of `size` x `size` pixels to that of the aligned slice, moved by `shift`."""
    middle = (np.array(SHAPE) - 1) / 2 + shift
    return from_matvec(linear, middle - linear @ np.full(2, (size - 1) / 2))


def moved(image: NDArray, back: NDArray, shape: tuple[int, int]) -> NDArray:
    """Resample an image (H, W) at other pixels; black outside.

    Args:
        image: any unit.
        back: (3, 3), new (row, column) -> old.
        shape: of the new image.
    """
    pixel = float(np.sqrt(abs(np.linalg.det(back[:2, :2]))))
    smooth = ndimage.gaussian_filter(image, BLUR * pixel) if pixel > 1 else image
    return ndimage.affine_transform(smooth, back[:2, :2], back[:2, 2], output_shape=shape, order=1)


def with_stroke(image: NDArray, subject: str) -> tuple[NDArray, NDArray[np.bool_]]:
    """An aligned slice (233, 197) in [0, 1] with a painted stroke, and its mask."""
    side = SHAPE[0]
    grid = from_matvec(side / SIZE * np.eye(2), [0.5 * side / SIZE - 0.5, 0.5 * side / SIZE - 18.5])
    small = torch.from_numpy(moved(image, grid, (SIZE, SIZE)))[None, None].float()
    painted, mask = StrokeLesions("medium")(small, [subject], 0)
    onto = np.linalg.inv(grid)
    darker = ndimage.affine_transform((small - painted)[0, 0].numpy(), onto[:2, :2], onto[:2, 2], SHAPE, order=1)
    lesion = ndimage.affine_transform(mask[0, 0].float().numpy(), onto[:2, :2], onto[:2, 2], SHAPE, order=1)
    return np.clip(image - darker, 0, 1), lesion > 0.5


class Analysis:
    """The bundle's inference of one file, up to the anomaly map.

    Args:
        bundle_root: its folder.
        method: the network; "" for the config's.
    """

    def __init__(self, bundle_root: str, method: str = "") -> None:
        entries: dict[str, Any] = {"device": torch.device("cpu")} | ({"method": method} if method else {})
        names = ["preprocessing", "inferer", "network_def", "weights_file", "postprocessing"]
        parts = from_inference(names, bundle_root, entries, ["inference.json"])
        self.preprocessing, self.inferer, self.network = (parts[name] for name in names[:3])
        load_network(self.network.eval(), parts["weights_file"])
        steps = parts["postprocessing"].transforms
        self.postprocessing = steps[: [type(step).__name__ for step in steps].index("NativeImagesd") + 1]

    @torch.inference_mode()
    def __call__(self, file: Path) -> NDArray[np.float32]:
        """The anomaly map (H, W) of a PNG."""
        data = self.preprocessing({"image": str(file), "case": file.stem})
        data["pred"] = torch.as_tensor(self.inferer(data["image"].as_tensor()[None], self.network))[0]
        for step in self.postprocessing:
            data = step(data)
        return data["anomaly"].as_tensor()[0, :, :, 0].numpy().T


def slice_trials(
    dataset_dir: str = "../shared/data/ixi_midaxial/val", bundle_root: str = "bundle", method: str = "", limit: int = 0
) -> None:
    """AUPRC of painted strokes in aligned slices, and in the same slices padded, resampled, turned and shifted.

    Args:
        dataset_dir: PNGs of 197 x 233 pixels, healthy.
        bundle_root: the bundle's folder.
        method: the network, as in inference.
        limit: of slices, evenly among all; 0 takes all.
    """
    files = sorted(Path(dataset_dir).glob("*.png"))
    if not files:
        raise PhanesInputError(f"'{dataset_dir}' holds no PNG: give a folder of aligned healthy slices.")
    files = files[:: max(1, len(files) // limit)][:limit] if limit else files
    analyse = Analysis(bundle_root, method)
    level = np.array([[0.0, 1, 0, -98], [-1, 0, 0, 98], [0, 0, 1, LEVEL_MM], [0, 0, 0, 1]])
    brain = brain_on_grid(level, (*SHAPE, 1))[..., 0]
    truth: list[NDArray] = []
    scores: dict[str, list[NDArray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in tqdm(files):
            image = np.asarray(Image.open(file).convert("L"), dtype=np.float64) / 255
            painted, mask = with_stroke(image, file.stem)
            truth.append(mask[brain])
            for name, (back, shape) in movements(file.stem).items():
                path = Path(folder) / "slice.png"
                Image.fromarray(np.rint(255 * moved(painted, back, shape)).astype(np.uint8)).save(path)
                where = apply_affine(np.linalg.inv(back), np.argwhere(brain)).T
                found = ndimage.map_coordinates(analyse(path), where, order=1)
                scores.setdefault(name, []).append(found)
    lesion = np.concatenate(truth)
    rows = [
        [name, f"{100 * average_precision(rank(np.concatenate(found), lesion)):.1f}"] for name, found in scores.items()
    ]
    show(f"Strokes in {len(files)} single slices", ["slice", "AUPRC"], rows)
