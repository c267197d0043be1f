"""The shipped weights on phantoms made by code give the committed numbers; `make golden` recomputes them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import BUNDLE, head_slice, ras_of_slice, run_inference, save_nifti

GOLDEN = Path(__file__).parent / "golden.json"
CASES = ("healthy", "dark", "bright")
METHODS: dict[str, list[str]] = {
    "inference": [],
    "mid_axial": ["mid_axial.json"],
    "paper": ["paper.json"],
}  # and their overlays


def write_phantoms(folder: Path) -> None:
    """A head phantom, and the same with a dark and with a bright disc in its right hemisphere."""
    y, x = np.mgrid[:233, :197]
    disc = (y - 130) ** 2 + (x - 140) ** 2 < 14**2
    for name, value in zip(CASES, (None, 40, 250), strict=True):
        image = head_slice(seed=3)
        if value is not None:
            image[disc] = value
        save_nifti(folder / f"{name}.nii.gz", ras_of_slice(image), np.diag([1.0, 1.0, 1.0, 1.0]))


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Numbers of a run of the shipped bundle that any change of the method would move."""
    write_phantoms(folder / "in")
    numbers = {}
    for method, overlays in METHODS.items():
        out = folder / method
        run_inference(BUNDLE, folder / "in", out, overlays, save_picture=False, report=False)
        for case in CASES:
            images = {
                name: np.asarray(nib.load(out / case / f"{case}_{name}.nii.gz").dataobj, dtype=np.float64)
                for name in ("anomaly", "pseudo_healthy", "coarse", "mask", "label")
            }
            means = {f"{name}_mean": float(image.mean()) for name, image in images.items()}
            numbers[f"{method}, {case}"] = {**means, "anomaly_max": float(images["anomaly"].max())}
    return numbers


@pytest.mark.skipif(not (BUNDLE / "models" / "model.pt").is_file(), reason="the bundle has no weights yet")
def test_shipped_weights_give_the_committed_numbers(tmp_path: Path) -> None:
    assert GOLDEN.is_file(), "tests/pipeline/golden.json is missing: run `make golden` and commit it"
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    measured = measure(tmp_path)
    assert measured.keys() == expected.keys()
    for case in expected:
        # Binary images may lose or win a pixel between processors; continuous ones agree to rounding.
        for name, value in expected[case].items():
            tolerance = (
                {"rel": 0.02, "abs": 5e-4} if name in ("mask_mean", "label_mean") else {"rel": 0.005, "abs": 1e-6}
            )
            assert measured[case][name] == pytest.approx(value, **tolerance), (case, name)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        GOLDEN.write_text(json.dumps(measure(Path(temporary)), indent=4) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
