"""MONAI Label, the real server: `make label`, a volume over HTTP, the bundle's own label back, options, fine-tuning."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import torch

from tests.conftest import BUNDLE, REPOSITORY, head_slice, ras_of_slice, run_inference, save_nifti
from tests.integrations.conftest import free_port, running


def checked(answer: requests.Response) -> requests.Response:
    """The answer, if it is one; the server's own words otherwise."""
    assert answer.ok, f"{answer.status_code}: {answer.text[-2000:]}"
    return answer


def upload(server: str, name: str, scan: Path) -> None:
    """Into the server's datastore, as a viewer does."""
    with scan.open("rb") as file:
        checked(requests.put(f"{server}/datastore/image?image={name}", files={"file": (scan.name, file)}, timeout=120))


def head(path: Path, seed: int) -> Path:
    """A small head in native space, stored left to right reversed, 3 mm slices."""
    ras = ras_of_slice(head_slice(seed))
    volume = np.concatenate([ras // 2, ras, ras, ras, ras // 2], axis=-1)[::-1]
    affine = np.diag([-1.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [98, -134, 15]
    return save_nifti(path, np.ascontiguousarray(volume), affine)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `make label` puts everything."""
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return head(tmp_path_factory.mktemp("scan") / "head.nii.gz", 0)


@pytest.fixture(scope="module")
def server(environment: Path, folder: Path, scan: Path) -> Iterator[str]:
    """The server as the documentation starts it, with the volume uploaded as `head`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["make", "label", f"LABEL={folder}", f"LABEL_PORT={port}", f"ENVIRONMENTS={environment.parent}"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with running(command, f"{url}/info/", folder / "server.log", variables, REPOSITORY, seconds=900):
        upload(url, "head", scan)
        yield url


def infer(server: str, folder: Path, **options: object) -> nib.Nifti1Image:
    """The label the server gives for `head`."""
    params = {"device": "cpu", "result_dtype": "uint8", "result_extension": ".nii.gz", **options}
    url = f"{server}/infer/phanes?image=head&output=image"
    path = folder / f"{uuid.uuid4().hex}.nii.gz"
    path.write_bytes(checked(requests.post(url, data={"params": json.dumps(params)}, timeout=600)).content)
    return nib.load(path)


@pytest.fixture(scope="module")
def expected(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, nib.Nifti1Image]:
    """The bundle's own results of `monai.bundle run inference`: one level, and a slab."""
    out = tmp_path_factory.mktemp("expected")
    for name, options in {"mid": {}, "slab": {"slab_mm": 7}}.items():
        run_inference(BUNDLE, scan, out / name, report=False, label_threshold=0.01, **options)
    labels = {name: nib.load(out / name / "head" / "head_label.nii.gz") for name in ("mid", "slab")}
    return {**labels, "map": nib.load(out / "mid" / "head" / "head_anomaly.nii.gz")}


def same(label: nib.Nifti1Image, other: nib.Nifti1Image) -> None:
    """Voxel by voxel, and at the same place."""
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(other.dataobj))
    np.testing.assert_allclose(label.affine, other.affine, atol=1e-5)


def test_the_model_is_offered_with_its_options(server: str) -> None:
    info = checked(requests.get(f"{server}/info/", timeout=60)).json()
    model = info["models"]["phanes"]
    assert model["labels"] == {"anomaly": 1}
    assert model["config"]["threshold"] == "calibrated"
    assert model["config"]["slab_mm"] == 0
    assert info["trainers"]["phanes"]["config"]["pretrained"] is True


def test_the_label_is_the_bundles_own(server: str, folder: Path, expected: dict[str, nib.Nifti1Image]) -> None:
    assert np.asarray(expected["mid"].dataobj).any()
    same(infer(server, folder, threshold=0.01), expected["mid"])


def test_the_options_panel_changes_the_label(server: str, folder: Path, expected: dict[str, nib.Nifti1Image]) -> None:
    """Numbers, and text as Slicer's fields send it; without options the calibrated threshold."""
    anomaly = np.asarray(expected["map"].dataobj)
    calibrated = json.loads((BUNDLE / "models/calibration.json").read_text())["label_threshold"]
    by_default = np.asarray(infer(server, folder).dataobj)
    np.testing.assert_array_equal(by_default, anomaly > calibrated)
    lower = np.asarray(infer(server, folder, threshold="0.005").dataobj)
    np.testing.assert_array_equal(lower, anomaly > 0.005)
    assert lower.sum() > np.asarray(expected["mid"].dataobj).sum()
    same(infer(server, folder, threshold="0.01", slab_mm="7"), expected["slab"])
    same(infer(server, folder, threshold=0.01), expected["mid"])


def test_fine_tuning_starts_from_the_server(server: str, folder: Path, tmp_path: Path) -> None:
    """On healthy scans submitted with empty labels; its weights and thresholds come beside the run, not over ours."""
    shipped = folder / "apps/monaibundle/model/phanes/models/model.pt"
    before = shipped.read_bytes()
    for n in range(5):
        scan = head(tmp_path / f"healthy{n}.nii.gz", n + 1)
        upload(server, f"healthy{n}", scan)
        image = nib.load(scan)
        empty = save_nifti(tmp_path / "empty.nii.gz", np.zeros(image.shape, np.uint8), image.affine)
        with empty.open("rb") as file:
            url = f"{server}/datastore/label?image=healthy{n}&tag=final"
            checked(requests.put(url, files={"label": ("label.nii.gz", file)}, timeout=120))
    options = {"device": "cpu", "max_epochs": 1, "val_split": 0.2, "multi_gpu": False, "tracking": "None"}
    checked(requests.post(f"{server}/train/phanes", json=options, timeout=120))
    tuned = folder / "runs/autoencoder_compact/models"
    deadline = time.monotonic() + 600
    while not (tuned / "calibration.json").exists() and time.monotonic() < deadline:
        time.sleep(2)
    record = json.loads((tuned / "calibration.json").read_text())
    assert record["healthy_scans"] == 1
    state = torch.load(tuned / "model.pt", weights_only=True)
    original = torch.load(shipped, weights_only=True)
    changed = {name for name in state if not torch.equal(state[name], original[name])}
    assert any(name.startswith("autoencoder") for name in changed)
    assert not any(name.startswith(("inpainter", "perceptual")) for name in changed)
    assert shipped.read_bytes() == before
