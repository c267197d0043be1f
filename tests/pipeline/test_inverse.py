"""A lesion painted in a scan's own voxels and its finding agree within a voxel, however the scan is stored or lies."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from nibabel.affines import apply_affine, voxel_sizes

from scripts.space import alignment
from scripts.space.registration import describe
from scripts.study.registration_trials import movement
from tests.conftest import BUNDLE
from tests.heads import ball, oblique, on_grid, reoriented

RADIUS_MM = 11.0
BRIGHT = 900.0  # of the lesion; the template's brightest tissue is 255
CENTRE = (-28.0, -30.0, -1.0)  # mm, MNI; far from the paper's level
RECORD: dict[str, Any] = {"heads": {"label_threshold": 0.9}, "slices": {"label_threshold": 0.9}}


class Stub(torch.nn.Module):
    """Finds what is white after normalisation; its reconstruction is the image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image[:, :1]
        return torch.cat([x, x, (x > 0.9).float(), x], dim=1)


def chains(slices: Any = "brain") -> tuple[Compose, Compose]:
    """Pre- and postprocessing of inference.json, with a threshold for the stub."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "slices": slices, "calibration": RECORD})
    return parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def analysed(path: Path, steps: tuple[Compose, Compose]) -> dict[str, Any]:
    data = steps[0]({"image": str(path)})
    data["pred"] = Stub()(data["image"].as_tensor()[None])[0]
    return steps[1](data)


def painted(affine: np.ndarray, shape: tuple, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head with a bright ball, the ball's mask, its centre in the scan's world."""
    head = on_grid(affine, shape, matrix)
    centre = apply_affine(matrix, CENTRE)
    lesion = ball(affine, shape, centre, RADIUS_MM)
    return np.where(lesion, BRIGHT, head).astype(np.float32), lesion, centre


@pytest.fixture
def known_registration(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The registration finds the movement that the head was made with; tests of its own say how well it does."""

    def found(matrix: np.ndarray) -> None:
        monkeypatch.setattr(alignment, "register", lambda volume, affine: describe(matrix, 0.9))

    return found


def check(output: dict[str, Any], lesion: np.ndarray, centre: np.ndarray, affine: np.ndarray) -> None:
    voxel = float(voxel_sizes(affine).max())
    assert len(output["findings"]) == 1
    finding = output["findings"][0]
    assert np.linalg.norm(np.array([finding.x_mm, finding.y_mm, finding.z_mm]) - centre) < voxel / 2
    assert np.linalg.norm(np.array([finding.mni_x_mm, finding.mni_y_mm, finding.mni_z_mm]) - CENTRE) < voxel / 2 + 0.5
    assert finding.side == "left"
    label = output["pred"].as_tensor()[0].numpy() > 0
    assert 2 * (label & lesion).sum() / (label.sum() + lesion.sum()) > 0.8
    # Within a voxel: grown by one the lesion holds the label, and the label the lesion without its rim.
    edge = np.linalg.norm(voxel_sizes(affine)) + 1.0  # and half a level's voxel
    points = apply_affine(affine, np.argwhere(label))
    assert np.linalg.norm(points - centre, axis=1).max() < RADIUS_MM + edge
    inner = ball(affine, lesion.shape, centre, RADIUS_MM - edge)
    assert label[inner].all()


def test_all_48_storage_orders(tmp_path: Path, known_registration: Any) -> None:
    shape, matrix = (52, 64, 52), movement(5, rotation=(0, 12), shift=10)[0]
    affine = oblique(shape, (4.0, 4.2, 4.5), (3.0, -6.0, 8.0))
    head, lesion, centre = painted(affine, shape, matrix)
    known_registration(matrix)
    steps, reference = chains(), None
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        orientation = np.array(list(zip(order, flips, strict=True)), dtype=float)
        turned, grid = reoriented(head, affine, orientation)
        nib.save(nib.Nifti1Image(turned, grid), tmp_path / "x.nii")
        output = analysed(tmp_path / "x.nii", steps)
        check(output, reoriented(lesion, affine, orientation)[0], centre, grid)
        found = {name: getattr(output["findings"][0], name) for name in ("volume_mm3", "peak", "mean", "mni_z_mm")}
        reference = reference or found
        whole = {name: found[name] for name in ("peak", "mean")}
        assert whole == pytest.approx({name: reference[name] for name in whole}, rel=1e-2)
        # A voxel whose map lies at the threshold may fall on either side: it is 76 mm3 large.
        assert found["volume_mm3"] == pytest.approx(reference["volume_mm3"], rel=0.02)
        assert found["mni_z_mm"] == pytest.approx(reference["mni_z_mm"], abs=0.2)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 1.5, 5.0), (5.0, 1.6, 1.6), (1.7, 4.0, 1.7)])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (17.0, -12.0, 25.0)])
def test_oblique_scans_and_thick_slices(tmp_path: Path, known_registration: Any, spacing: tuple, angles: tuple) -> None:
    shape = tuple(int(n) for n in np.round(np.array([190, 230, 190]) / spacing))
    matrix = movement(7, rotation=(0, 10), shift=15)[0]
    affine = oblique(shape, spacing, angles)
    affine[:3, 3] += matrix[:3, 3]
    head, lesion, centre = painted(affine, shape, matrix)
    known_registration(matrix)
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "x.nii")
    output = analysed(tmp_path / "x.nii", chains())
    check(output, lesion, centre, affine)
    head = torch.from_numpy(head)
    outside = ~output["analysed"].as_tensor()[0].bool()
    for name in ("pseudo_healthy", "coarse"):
        assert torch.equal(output[name].as_tensor()[0][outside], head[outside])
    assert not output["anomaly"].as_tensor()[0][outside].any()


def test_a_listed_slice_comes_back_onto_itself(tmp_path: Path, known_registration: Any) -> None:
    shape = (95, 115, 40)
    affine = oblique(shape, (2.0, 2.0, 4.5), (0.0, 0.0, 0.0))
    head, lesion, _ = painted(affine, shape, np.eye(4))
    known_registration(np.eye(4))
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "x.nii")
    indices = [int(n) for n in np.flatnonzero(lesion.any(axis=(0, 1)))[1:-1]]
    output = analysed(tmp_path / "x.nii", chains(indices))
    touched = np.flatnonzero(output["analysed"].as_tensor()[0].numpy().any(axis=(0, 1)))
    assert touched.tolist() == indices
    label = output["pred"].as_tensor()[0].numpy() > 0
    for index in indices:
        a, b = label[..., index], lesion[..., index]
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85
