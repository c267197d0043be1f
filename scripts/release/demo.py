"""The demo: the MNI152 template from nilearn's package, healthy and with a painted stroke."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from ..common.errors import PhanesInputError

CASES = ("healthy", "stroke")
LESION_CENTRE = (42.0, -34.0, -6.0)  # mm, MNI: right temporal lobe, far below the paper's mid-axial level
LESION_RADII = (12.0, 19.0, 13.0)  # mm along x, y, z
LESION_INTENSITY = 0.38  # of the template's brightest tissue; old infarcts are nearly as dark as fluid
SEED = 2109


def paint_stroke(volume: NDArray, affine: NDArray, seed: int = SEED) -> tuple[NDArray, NDArray[np.bool_]]:
    """Paint a stroke-like lesion: irregular, soft-edged, darker than the tissue, textured.

    Args:
        volume: (X, Y, Z) intensities in [0, 1] in MNI space, 0 outside the brain.
        affine: (4, 4) voxel to MNI mm, axis-aligned.
        seed: of the outline and the texture.

    Returns:
        The painted volume, and the lesion's mask: the voxels that are at least half lesion.
    """
    rng = np.random.default_rng(seed)
    axes = [affine[i, 3] + affine[i, i] * np.arange(n) for i, n in enumerate(volume.shape)]
    scaled = [(axis - c) / r for axis, c, r in zip(axes, LESION_CENTRE, LESION_RADII, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*scaled, indexing="ij", sparse=True)))

    def noise(sigma: float) -> NDArray:
        field = gaussian_filter(rng.standard_normal(volume.shape), sigma, mode="wrap")
        return field / field.std()

    outline = (distance + 0.18 * noise(4.0)) < 1.0
    share = gaussian_filter(outline.astype(np.float64), 1.0) * (volume > 0)
    lesion = LESION_INTENSITY * (1.0 + 0.12 * noise(1.5)) + 0.12 * (volume - volume[outline].mean())
    painted = volume * (1.0 - share) + np.clip(lesion, 0.0, 1.0) * share
    return painted, share > 0.5


def write_demo_input(out: str | Path) -> dict[str, Path]:
    """Write the demo's two heads as NIfTI below `<out>/input`, and the true lesion beside that folder.

    Returns:
        Paths: `healthy`, `stroke` (the cases) and `truth` (the painted lesion's mask).
    """
    from nilearn.datasets import load_mni152_template  # slow to import, and only the demo needs it

    template = load_mni152_template(resolution=1)
    healthy = np.asarray(template.dataobj, dtype=np.float64)
    stroke, lesion = paint_stroke(healthy, template.affine)
    folder = Path(out).expanduser()
    (folder / "input").mkdir(parents=True, exist_ok=True)
    paths = {case: folder / "input" / f"{case}.nii.gz" for case in CASES} | {"truth": folder / "stroke_truth.nii.gz"}
    images = {"healthy": healthy * 255, "stroke": stroke * 255, "truth": lesion}
    for name, path in paths.items():
        image = nib.Nifti1Image(np.round(images[name]).astype(np.uint8), template.affine)
        image.header.set_sform(template.affine, code="mni")
        image.header.set_qform(template.affine, code="mni")
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
    return paths


def dice(a: NDArray, b: NDArray) -> float:
    """Dice overlap of two masks; 1 when both are empty."""
    a, b = np.asarray(a) > 0, np.asarray(b) > 0
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def print_demo_summary(out: str | Path) -> None:
    """Print the demo's table (findings, volume, Dice of label and painted lesion) and the paths of its pictures.

    Raises:
        PhanesInputError: the demo has not been run in this folder.
    """
    folder = Path(out).expanduser()
    summary = folder / "results" / "summary.csv"
    if not summary.is_file():
        raise PhanesInputError(f"'{summary}' not found: run the demo first (make demo).")
    with summary.open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    truth = _read(folder / "stroke_truth.nii.gz")
    table = Table(title="PHANES demo: the MNI152 template, healthy and with a painted stroke-like lesion")
    table.add_column("case")
    for title in ("findings", "volume (mm³)", "anomaly score", "Dice with the painted lesion"):
        table.add_column(title, justify="right")
    for case in CASES:
        row = rows[case]
        label = _read(folder / "results" / case / f"{case}_label.nii.gz")
        overlap = f"{dice(label, truth):.2f}" if case == "stroke" else "-"
        table.add_row(case, row["findings"], row["volume_mm3"], row["anomaly_score"], overlap)
    Console().print(table)
    for path in (folder / "results" / "report.html", folder / "results" / "stroke" / "stroke.png"):
        print(path.resolve())  # not through rich, which would break long paths


def _read(path: Path) -> NDArray:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj)
