"""A real PACS (Orthanc) over DICOMweb and DIMSE: series in, results back under the same study, once each."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.conftest import BUNDLE, REPOSITORY
from tests.dicom.synthetic import save, slices
from tests.integrations.conftest import activated
from tests.integrations.heads import stroke_series
from tests.integrations.orthanc import Orthanc, own_network

NAME = "Secret^Patient"
THREADS = {"OMP_NUM_THREADS": "1"}  # sums in one order, so that results can be equal to the last bit
STUDY, SERIES, INSTANCE, MODALITY = "0020000D", "0020000E", "00080018", "00080060"


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture(scope="module")
def orthanc(network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.stop()


class Hospital:
    """Makes studies and sends them to the PACS, with other software than ours."""

    def __init__(self, orthanc: Orthanc, environment: Path, folder: Path) -> None:
        self.orthanc, self.environment, self.folder = orthanc, environment, folder

    def study(self) -> tuple[str, Path]:
        """A study of a T1w head and a T2 series; its UID, and the head's folder."""
        uid = generate_uid()
        shared = {"StudyInstanceUID": uid, "FrameOfReferenceUID": generate_uid(), "PatientName": NAME}
        folder = self.folder / uid
        head = stroke_series(folder / "t1", self.folder / "demo", SeriesInstanceUID=generate_uid(), **shared)
        t2 = slices(
            np.random.default_rng(0).integers(0, 900, (3, 64, 64)),
            **shared,
            SeriesInstanceUID=generate_uid(),
            SeriesDescription="t2_tse",
            SeriesNumber=5,
        )
        save(t2, folder / "t2")
        return uid, head

    def send(self, folder: Path) -> None:
        """By C-STORE."""
        address = ["127.0.0.1", str(self.orthanc.port), str(folder), "-r", "-aec", "ORTHANC"]
        patience = [word for option in ("-ta", "-td", "-tn") for word in (option, "300")]
        self._run("python", "-m", "pynetdicom", "storescu", *address, *patience)
        self.check(folder)

    def post(self, folder: Path) -> None:
        """By STOW-RS."""
        files = sorted(str(path) for path in folder.rglob("*.dcm"))
        self._run("dicomweb_client", "--url", self.orthanc.url, "store", "instances", *files)
        self.check(folder)

    def check(self, folder: Path) -> None:
        """All of it has arrived: the senders exit with 0 also when they were cut off."""
        for series in {path.parent for path in folder.rglob("*.dcm")}:
            files = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
            found = held(self.orthanc, files[0].StudyInstanceUID)
            assert {str(one.SOPInstanceUID) for one in files} <= {uid for uids in found.values() for uid in uids}

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.environment / "bin" / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def hospital(orthanc: Orthanc, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(orthanc, environment, tmp_path_factory.mktemp("hospital"))


def watch_command(environment: Path, work: Path, pacs: str, *options: str) -> list[str]:
    command = [str(environment / "bin" / "python"), "-m", "scripts", "watch", "--pacs", pacs, "--work_dir", str(work)]
    return [*command, "--days", "0", "--settle_s", "1", *options]


def watch_once(environment: Path, work: Path, pacs: str, *options: str) -> list[str]:
    """`watch --once`; the lines of its log."""
    command = watch_command(environment, work, pacs, "--once", *options)
    variables = activated(environment, **THREADS)
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    check_no_names(done.stderr + done.stdout, work)
    return done.stderr.splitlines()


def check_no_names(text: str, work: Path) -> None:
    records = [path.read_text() for path in (work / "record").iterdir()]
    assert records
    assert not any("Secret" in one or "Head" in one for one in (text, *records))


def results_on_disk(work: Path, study: str) -> dict[str, pydicom.Dataset]:
    """What inference wrote for a study, by SOP Instance UID; the watcher keeps it with --keep_files true."""
    files = [pydicom.dcmread(path) for path in work.joinpath("studies").rglob("results/*/dicom/**/*.dcm")]
    return {str(one.SOPInstanceUID): one for one in files if one.StudyInstanceUID == study}


def held(orthanc: Orthanc, study: str) -> dict[str, list[str]]:
    """By QIDO-RS: modality -> SOP Instance UIDs in the study."""
    found: dict[str, list[str]] = {}
    for one in orthanc.qido(f"studies/{study}/series"):
        series = one[SERIES]["Value"][0]
        images = orthanc.qido(f"studies/{study}/series/{series}/instances")
        found.setdefault(one[MODALITY]["Value"][0], []).extend(image[INSTANCE]["Value"][0] for image in images)
    return found


def assert_intact(orthanc: Orthanc, work: Path, study: str) -> dict[str, pydicom.Dataset]:
    """All results are found by QIDO-RS under the study, and nothing of them was changed on the way."""
    written = results_on_disk(work, study)
    there = held(orthanc, study)
    assert written
    assert {"SEG", "SR", "MR"} <= set(there)
    assert set(written) <= {uid for uids in there.values() for uid in uids}
    assert len(there["SEG"]) == len(there["SR"]) == 1
    for uid, ours in written.items():
        theirs = pydicom.dcmread(io.BytesIO(orthanc.file(uid)))
        for pixels in ("PixelData", "FloatPixelData"):
            assert theirs.get(pixels) == ours.get(pixels)
        assert theirs == ours
    return written


def test_a_series_by_c_store_and_one_by_stow_are_analysed_and_results_come_back(
    orthanc: Orthanc, hospital: Hospital, environment: Path, tmp_path: Path
) -> None:
    (first, head), (second, _) = hospital.study(), hospital.study()
    hospital.send(head.parent)
    hospital.post(hospital.folder / second)
    log = watch_once(environment, tmp_path / "work", orthanc.url, "--keep_files", "true")
    lines = [line for line in log if " study " in line]
    assert len(lines) == 2
    for uid in (first, second):
        assert sum(f"study {uid}: 1 series analysed, " in line and "; 1 left out in " in line for line in lines) == 1
        assert_intact(orthanc, tmp_path / "work", uid)

    # The results are those of `monai.bundle run` on the series.
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(BUNDLE)]
    command += ["--config_file", str(BUNDLE / "configs" / "inference.json"), "--dicom_output", "true"]
    command += ["--dataset_dir", str(head), "--output_dir", str(tmp_path / "bundle")]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, env={**os.environ, **THREADS})
    (ours,) = (tmp_path / "bundle").rglob("segmentation.dcm")
    (folder,) = [
        path.parent
        for path in (tmp_path / "work").rglob("segmentation.dcm")
        if pydicom.dcmread(path).StudyInstanceUID == first
    ]
    assert np.frombuffer(pydicom.dcmread(ours).PixelData, np.uint8).any()
    names = [path.relative_to(ours.parent) for path in ours.parent.rglob("*.dcm") if "picture" not in path.name]
    assert len(names) > 3
    for name in names:  # the picture's title is the case's name
        a, b = pydicom.dcmread(ours.parent / name), pydicom.dcmread(folder / name)
        assert a.get("PixelData") == b.get("PixelData"), name
        assert a.get("FloatPixelData") == b.get("FloatPixelData"), name

    # A second look finds nothing to do; without its record it recognises what is in the PACS.
    before = held(orthanc, first)
    assert not [line for line in watch_once(environment, tmp_path / "work", orthanc.url) if " study " in line]
    log = watch_once(environment, tmp_path / "new", orthanc.url)
    assert sum("1 with results in the PACS already" in line for line in log) == 2
    assert held(orthanc, first) == before


@pytest.mark.parametrize("way", ["fetched and stored by DIMSE", "stored by C-STORE"])
def test_the_same_with_a_dicom_node(
    orthanc: Orthanc, hospital: Hospital, environment: Path, tmp_path: Path, way: str
) -> None:
    study, head = hospital.study()
    hospital.send(head.parent)
    options = ["--keep_files", "true", "--anonymize", "true"]
    query = {"study_query": {"ModalitiesInStudy": "MR", "StudyInstanceUID": study}}
    settings = json.loads((BUNDLE / "configs" / "pacs.json").read_text()) | query
    (tmp_path / "pacs.json").write_text(json.dumps(settings))
    options += ["--config", str(tmp_path / "pacs.json")]
    place = orthanc.node if "fetched" in way else orthanc.url
    log = watch_once(environment, tmp_path / "work", place, *options, "--store", orthanc.node)
    lines = [line for line in log if " study " in line]
    assert len(lines) == 1
    assert "1 series analysed" in lines[0]
    assert "1 left out" in lines[0]
    records = [path.read_text() for path in (tmp_path / "work" / "record").iterdir()]
    assert not any(study in text for text in (*log, *records))
    assert_intact(orthanc, tmp_path / "work", study)


class Watch:
    """`watch` as a service, whose log goes on over its restarts."""

    def __init__(self, environment: Path, work: Path, pacs: str, *options: str) -> None:
        self.command = watch_command(environment, work, pacs, *options)
        self.variables = activated(environment, **THREADS)
        self.work, self.log = work, work.parent / "watch.log"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen]:
        with self.log.open("a") as file:
            process = subprocess.Popen(self.command, cwd=REPOSITORY, env=self.variables, stdout=file, stderr=file)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def lines(self, text: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if text in line]

    def wait_for(self, text: str, seconds: float = 480) -> None:
        wait_until(lambda: bool(self.lines(text)), seconds, f"'{text}' in\n{self.log.read_text()[-3000:]}")

    def state(self, study: str) -> list[str]:
        """Of the study's series."""
        for path in (self.work / "record").glob("*.json"):
            record = json.loads(path.read_text())
            if record["study"] == study:
                return [one["state"] for one in record["series"].values()]
        return []


def wait_until(condition: object, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def test_unattended_new_studies_are_done_once_each_whatever_is_restarted(
    orthanc: Orthanc, hospital: Hospital, environment: Path, tmp_path: Path
) -> None:
    studies = [hospital.study() for _ in range(4)]
    uids = [uid for uid, _ in studies]
    shipped = json.loads((BUNDLE / "configs" / "pacs.json").read_text())
    settings = shipped | {"batch": 1, "backoff_s": 1, "interval_s": 1}
    (tmp_path / "pacs.json").write_text(json.dumps(settings))
    options = ["--config", str(tmp_path / "pacs.json"), "--keep_files", "true"]
    service = Watch(environment, tmp_path / "work", orthanc.url, *options)
    with service.running():
        hospital.send(studies[0][1].parent)
        service.wait_for(f"study {uids[0]}: 1 series analysed")

        orthanc.stop()  # the PACS goes away and comes back
        service.wait_for("cannot be reached; again in")
        orthanc.start()
        hospital.post(studies[1][1].parent)
        service.wait_for(f"study {uids[1]}: 1 series analysed")

        hospital.send(studies[2][1].parent)
        wait_until(lambda: list(service.work.rglob("series/*/series*/*.dcm")), 120, "a series to be fetched")
    # It was killed before it had analysed; now the PACS goes away before it can store, and it is killed again.
    assert "due" in service.state(uids[2])
    outages = len(service.lines("again in"))
    with service.running():
        wait_until(lambda: len(list(service.work.glob("studies/*/results/.phanes"))) == 3, 120, "the analysis to begin")
        orthanc.stop()
        wait_until(lambda: "analysed" in service.state(uids[2]), 480, "the analysis to end")
        wait_until(lambda: len(service.lines("again in")) > outages, 120, "the outage to be seen")
    assert "analysed" in service.state(uids[2])
    orthanc.start()
    with service.running() as process:
        service.wait_for(f"study {uids[2]}: 1 series analysed")
        hospital.send(studies[3][1].parent)  # asked to stop, it ends the step it is at, and goes on the next time
        wait_until(lambda: "due" in service.state(uids[3]), 120, "the study to be begun")
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    assert service.lines("stopped")
    with service.running() as process:
        service.wait_for(f"study {uids[3]}: 1 series analysed")
        time.sleep(5)  # a few looks more
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    check_no_names(service.log.read_text(), service.work)
    for uid in uids:
        assert len(service.lines(f"study {uid}: 1 series analysed")) == 1
        assert_intact(orthanc, service.work, uid)
        written, there = results_on_disk(service.work, uid), held(orthanc, uid)
        sources = len(list((hospital.folder / uid).rglob("*.dcm")))
        assert sum(map(len, there.values())) == sources + len(written)
    assert not service.lines("Traceback")
