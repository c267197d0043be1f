"""The MONAI Deploy application in its own environment, without Docker and GPU: the bundle's results, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from tests.conftest import BUNDLE, REPOSITORY
from tests.dicom.synthetic import save, slices
from tests.integrations.conftest import activated
from tests.integrations.heads import stroke_series

APP = REPOSITORY / "scripts" / "deploy"
THREADS = {"OMP_NUM_THREADS": "1"}  # sums in one order, so that results can be equal to the last bit


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study: a localizer, the head, and a T2 series."""
    root = tmp_path_factory.mktemp("study")
    stroke_series(root / "in" / "b_t1", root / "demo")
    noise = np.random.default_rng(0).integers(0, 900, (4, 64, 64))
    for name in ("localizer", "t2_tse"):
        save(slices(noise, SeriesDescription=name, SeriesInstanceUID=pydicom.uid.generate_uid()), root / "in" / name)
    return root


@pytest.fixture(scope="module")
def expected(studies: Path) -> Path:
    """What `monai.bundle run` writes for the head, as DICOM."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(BUNDLE)]
    command += ["--config_file", str(BUNDLE / "configs" / "inference.json"), "--dicom_output", "true"]
    command += ["--dataset_dir", str(studies / "in"), "--output_dir", str(studies / "bundle")]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, env={**os.environ, **THREADS})
    return studies / "bundle" / "b_t1" / "dicom"


def deploy(environment: Path, app: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [str(environment / "bin" / "python"), str(app), *arguments]
    known = activated(environment, **THREADS, **variables)
    return subprocess.run(command, env=known, cwd="/", capture_output=True, text=True, check=False, timeout=900)


def same(app: Path, bundle: Path) -> None:
    """The same objects of the same study, with the same pixel data, and the same numbers in the report."""
    names = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*.dcm"))
    assert names == sorted(str(path.relative_to(app)) for path in app.rglob("*.dcm"))
    assert {"segmentation.dcm", "anomaly_map.dcm", "picture_1.dcm", "report.dcm"} < set(names)
    for name in names:
        ours, theirs = pydicom.dcmread(app / name), pydicom.dcmread(bundle / name)
        assert ours.StudyInstanceUID == theirs.StudyInstanceUID
        assert ours.SOPClassUID == theirs.SOPClassUID
        if name == "report.dcm":
            assert numbers(app / name) == numbers(bundle / name) != []
        elif not name.startswith("picture"):  # its title is the case's name
            pixels = [ds.get("FloatPixelData") or ds.PixelData for ds in (ours, theirs)]
            assert pixels[0] == pixels[1], name
    assert np.frombuffer(pydicom.dcmread(app / "segmentation.dcm").PixelData, np.uint8).any()


def numbers(path: Path) -> list[tuple[str, float]]:
    """Names and values of all measurements of a report."""
    content = highdicom.sr.srread(path).content
    groups = [*content.get_volumetric_roi_measurement_groups(), *content.get_image_measurement_groups()]
    return [(m.name.meaning, m.value) for group in groups for m in group.get_measurements()]


def test_the_application_gives_the_bundles_own_results(
    environment: Path, studies: Path, expected: Path, tmp_path: Path
) -> None:
    done = deploy(environment, APP / "app.py", "-i", str(studies / "in"), "-o", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "series 't2_tse' is left out: another contrast than T1" in done.stderr + done.stdout
    same(tmp_path / "series1" / "dicom", expected)


def test_so_it_does_as_in_a_container(environment: Path, studies: Path, expected: Path, tmp_path: Path) -> None:
    """The files that `monai-deploy package` copies, where it copies them: application, models, settings apart."""
    package = [sys.executable, "-m", "scripts", "package", "--out", str(tmp_path / "dist")]
    subprocess.run(package, check=True, capture_output=True, cwd=REPOSITORY)
    name = "phanes_t1w_brain_anomaly"
    shutil.copytree(tmp_path / "dist" / name, tmp_path / "models" / name)
    shutil.copytree(APP, tmp_path / "app")
    settings = tmp_path / "app.yaml"
    settings.write_text((APP / "app.yaml").read_text().replace("report: false", "report: true"))
    places = {"INPUT": studies / "in", "OUTPUT": tmp_path / "out", "MODEL": tmp_path / "models", "CONFIG": settings}
    variables = {f"HOLOSCAN_{key}_PATH": str(path) for key, path in places.items()}
    done = deploy(environment, tmp_path / "app", **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    same(tmp_path / "out" / "series1" / "dicom", expected)
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_mistake_is_one_sentence(environment: Path, studies: Path, tmp_path: Path) -> None:
    """A study without a T1w head; a model folder without a bundle."""
    for arguments, said in (
        (["-i", str(studies / "in" / "t2_tse")], "Error: No T1w head series in the input"),
        (["-i", str(studies / "in"), "-m", str(studies / "demo")], "Error: no bundle in"),
    ):
        done = deploy(environment, APP / "app.py", *arguments, "-o", str(tmp_path))
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith(said)
        assert not list(tmp_path.rglob("*.dcm"))
