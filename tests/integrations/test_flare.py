"""NVIDIA FLARE's simulator with MONAI's own client: two sites, two rounds, weights averaged; configuration alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch
from PIL import Image

from tests.conftest import BUNDLE, REPOSITORY, head_slice
from tests.integrations.conftest import activated

SITES = ("site-1", "site-2")


def prepared(folder: Path) -> Path:
    """The job with this machine's paths, and each site's own healthy slices."""
    job = folder / "job"
    shutil.copytree(BUNDLE / "flare", job)
    for path in job.rglob("config_fed_*.json"):
        text = path.read_text().replace("BUNDLE", str(BUNDLE))
        path.write_text(text.replace("DATA", str(folder / "data")).replace("RUNS", str(folder / "runs")))
    for number, site in enumerate(SITES, start=1):
        for split, count in (("train", 4), ("val", 2)):
            slices = folder / "data" / site / split
            slices.mkdir(parents=True)
            for n in range(count):
                Image.fromarray(head_slice(100 * number + n + 10 * count)).save(slices / f"{n}.png")
    return job


def test_two_sites_train_and_the_servers_model_is_their_average(environment: Path, tmp_path: Path) -> None:
    command = [str(environment / "bin" / "nvflare"), "simulator", str(prepared(tmp_path)), "-w", str(tmp_path / "work")]
    command += ["-n", "2", "-t", "2", "-c", ",".join(SITES)]
    variables = activated(environment, OMP_NUM_THREADS="1") | {"PYTHONPATH": str(BUNDLE)}
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    (path,) = (tmp_path / "work" / "server").rglob("FL_global_model.pt")
    server = torch.load(path, weights_only=False)["model"]
    sites = [torch.load(tmp_path / "runs" / site / "network.pt", weights_only=True) for site in SITES]
    start = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    assert set(server) == set(start)
    moved = {name for name in start if not torch.equal(torch.as_tensor(server[name]).float(), start[name].float())}
    assert moved
    assert all(name.startswith("autoencoder") for name in moved)
    first, second = (one.get("model", one) for one in sites)
    for name in moved:
        mean = (first[name].double() + second[name].double()) / 2
        torch.testing.assert_close(torch.as_tensor(server[name]).double(), mean, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(first[name], second[name]) for name in moved)
