"""Files are data: nothing in a checkpoint, a cached download or a header is executed, nothing of a patient gets out.

The canaries are harmless: they would create an empty file.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps.utils import extractall
from packaging.utils import canonicalize_name
from PIL import Image

from scripts.common.anonymous import anonymous_name
from scripts.common.checkpoints import CHECKPOINT
from scripts.common.checksums import write_checksums
from scripts.common.cli import one_sentence
from scripts.common.errors import PhanesInputError
from scripts.common.safe_loading import SWITCH, tensors_only
from scripts.method.networks.perceptual import SpatialLPIPS, VGG19Features, read_weights
from scripts.pipeline.inference import sentence_of, verify_bundle
from scripts.release.sbom import pinned
from scripts.study.evaluation.store import ResultStore
from scripts.training.engines import StepTrainer
from scripts.training.parts import load_part
from tests.conftest import REPOSITORY, head_slice, run_inference, write_calibration
from tests.pipeline.bad_inputs import dicom_slice, series
from tests.pipeline.faults import tree


class Canary:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """The file that appears when something was executed."""
    return tmp_path / "executed"


def malicious(path: Path, canary: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"mask_threshold": torch.zeros(()), "features.0.weight": Canary(canary)}, path)
    return path


def test_the_canary_sings(tmp_path: Path, canary: Path) -> None:
    """Loaded without restriction, the same file does execute: the tests below can fail."""
    torch.load(malicious(tmp_path / "x.pt", canary), weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("where", ["model.pt", "override"])
def test_malicious_weights_are_refused(
    scratch_bundle: Path, tmp_path: Path, png: Path, canary: Path, where: str, capsys: pytest.CaptureFixture
) -> None:
    """In the bundle or by `--weights_file`, even when their checksum was forged in the calibration record, too."""
    root = tmp_path / "bundle"
    shutil.copytree(scratch_bundle, root, symlinks=True)
    malicious(root / "models" / "model.pt", canary)
    with pytest.raises(RuntimeError) as caught:
        run_inference(root, png, tmp_path / "out")
    assert "made for other weights" in sentence_of(caught.value)
    write_calibration(root)
    options = {}
    if where == "override":
        options["weights_file"] = str(shutil.copytree(root / "models", tmp_path / "evil") / "model.pt")
    with pytest.raises((RuntimeError, pickle.UnpicklingError)) as caught:
        run_inference(root, png, tmp_path / "out", **options)
    assert not canary.exists()
    assert not (tmp_path / "out" / "head").exists()
    one_sentence(type(caught.value), caught.value, None)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("Error: A file of weights holds something other than tensors")


def test_every_other_way_to_load_weights_refuses_them(tmp_path: Path, canary: Path) -> None:
    path = malicious(tmp_path / "x.pt", canary)
    ways = {
        "a part for calibration": lambda: load_part(torch.nn.Conv2d(1, 1, 1), str(path), "train"),
        "a trunk's file": lambda: SpatialLPIPS(trunk="file", weights=path),
        "a distilled trunk": lambda: SpatialLPIPS(trunk="distilled", weights=path),
        "a perceptual network": lambda: read_weights(path),
        "VGG19 from a file": lambda: VGG19Features(weights=path),
    }
    for name, load in ways.items():
        with pytest.raises(pickle.UnpicklingError):
            load()
        assert not canary.exists(), name


@pytest.mark.parametrize("network", ["lpips", "vgg19"])
def test_a_malicious_file_in_torchvisions_cache_is_refused(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """torchvision takes what it finds there as it is."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    cache = tmp_path / "home" / "hub" / "checkpoints"
    for name in ("squeezenet1_1-b8a52dc0.pth", "vgg19-dcbb9e9d.pth"):
        malicious(cache / name, canary)
    with pytest.raises(pickle.UnpicklingError):
        SpatialLPIPS(trunk="imagenet") if network == "lpips" else VGG19Features()
    assert not canary.exists()
    assert SWITCH not in os.environ


def test_the_switch_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with tensors_only():
        assert os.environ[SWITCH] == "1"
    assert os.environ[SWITCH] == "0"


def test_a_malicious_checkpoint_does_not_resume(tmp_path: Path, canary: Path) -> None:
    malicious(tmp_path / CHECKPOINT, canary)
    network = torch.nn.Linear(1, 1)
    trainer = StepTrainer("cpu", 1, [{"image": 0}], lambda images: {}, [network], checkpoint_dir=str(tmp_path))
    with pytest.raises(pickle.UnpicklingError):
        trainer.run()
    assert not canary.exists()


def test_a_malicious_result_in_the_evaluations_store_is_done_again(tmp_path: Path, canary: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.path("set", 0, "phanes")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".json").write_text(json.dumps({"key": "k"}))
    np.savez(path.with_name(path.name + ".npz"), x=np.array([Canary(canary)], dtype=object))
    loaded = store.load(path, "k")
    assert loaded is None or "x" not in loaded.arrays
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_unpacking_a_bundle_stays_inside_its_folder(tmp_path: Path, kind: str) -> None:
    """MONAI unpacks bundles; these are the archives that would write elsewhere."""
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        if kind == "parent":
            archive.writestr("../outside/x", "slipped")
        elif kind == "absolute":
            archive.writestr(str(outside / "x"), "slipped")
        else:
            link = zipfile.ZipInfo("way")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, str(outside))
            archive.writestr("way/x", "slipped")
    with suppress(ValueError, OSError, RuntimeError, zipfile.BadZipFile):
        extractall(tmp_path / "evil.zip", target, file_type="zip")
    assert not list(outside.iterdir())


def test_a_packaged_bundle_is_compared_with_its_checksums_when_asked(tmp_path: Path) -> None:
    for name in ("configs/inference.json", "models/model.pt", "scripts/a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    verify_bundle(str(tmp_path), True)
    (tmp_path / "scripts" / "a.py").write_text("changed")
    (tmp_path / "scripts" / "b.py").write_text("added")
    verify_bundle(str(tmp_path), False)
    with pytest.raises(PhanesInputError, match=r"scripts/a.py: changed, scripts/b.py: not listed"):
        verify_bundle(str(tmp_path), True)


def test_a_changed_bundle_does_not_run_where_it_is_to_be_verified(
    scratch_bundle: Path, tmp_path: Path, png: Path
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(scratch_bundle, root, ignore=shutil.ignore_patterns("__pycache__"))
    write_checksums(root)
    run_inference(root, png, tmp_path / "good", verify="true", save_picture=False)
    assert (tmp_path / "good" / "head" / "head_label.nii.gz").is_file()
    with (root / "models" / "calibration.json").open("a") as file:
        file.write(" ")
    with pytest.raises(RuntimeError) as caught:
        run_inference(root, png, tmp_path / "out", verify="true")
    assert "models/calibration.json: changed" in sentence_of(caught.value)
    assert not (tmp_path / "out").exists()


class Network:
    """Notes every attempt to reach another machine; an audit hook stays, so it is switched."""

    def __init__(self) -> None:
        self.on, self.attempts = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.on or not event.startswith(("socket.", "urllib.")):
            return
        local = event in ("socket.__new__", "socket.connect", "socket.bind") and any(
            getattr(a, "family", a) == 1 or isinstance(a, (str, bytes)) for a in arguments
        )
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request") and not local:
            self.attempts.append((event, str(arguments)))
            raise PermissionError("no network in this test")


@contextmanager
def network_forbidden() -> Iterator[Network]:
    network = Network()
    network.on = True
    try:
        yield network
    finally:
        network.on = False


def test_the_main_job_needs_no_network(scratch_bundle: Path, png: Path, tmp_path: Path) -> None:
    with network_forbidden() as network:
        with pytest.raises(PermissionError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1)  # the guard stands
        assert network.attempts
        network.attempts.clear()
        run_inference(scratch_bundle, png, tmp_path / "out")
        assert network.attempts == []
    assert (tmp_path / "out" / "head" / "head_label.nii.gz").is_file()


SECRETS = {
    "PatientName": "Zacharias^Quentin", "PatientID": "HOSP-9917734", "PatientBirthDate": "19610213",
    "PatientAddress": "14 Larkspur Lane", "OtherPatientNames": "Quincy^Zed",
    "ReferringPhysicianName": "Vandermolen^Ada",
    "AccessionNumber": "ACC5551212", "PatientComments": "mentions Zacharias", "InstitutionName": "Wendover Infirmary",
}  # fmt: skip
WORDS = ("zacharias", "quentin", "9917734", "19610213", "larkspur", "quincy", "vandermolen", "acc5551212", "wendover")


def leaks(folder: Path, *texts: str) -> list[tuple[str, str]]:
    """Words of the secrets in any file (name or content, unpacked) below a folder, or in texts."""
    found = []
    for path in [*folder.rglob("*")]:
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        searched = str(path.relative_to(folder)).encode() + content
        found += [(str(path), word) for word in WORDS if word.encode() in searched.lower()]
    return found + [("terminal or log", word) for text in texts for word in WORDS if word in text.lower()]


def test_nothing_of_a_patient_is_in_outputs_logs_or_messages(
    scratch_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """From good DICOM, from broken DICOM whose errors would quote the header, and from a NIfTI header's free text."""
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("good", "broken_number", "missing_slice", "unknown_syntax"):
        (source / name).mkdir(parents=True)
    series(source / "good", **SECRETS)
    series(source / "missing_slice", skip=(2,), **SECRETS)
    series(source / "unknown_syntax", **SECRETS)
    for path in (source / "unknown_syntax").iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    for index in range(3):
        ds = dicom_slice(source / "broken_number", index, **SECRETS)
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        # The name in odd places: where a number and where a position belong.
        data = buffer.getvalue().replace(b"1.0\\1.0 ", b"Quentin ").replace(b"IS\x02\x001 ", b"IS\x02\x00Za")
        (source / "broken_number" / f"{index}.dcm").write_bytes(data)
    image = nib.Nifti1Image(np.asarray(head_slice())[::-1].T[..., None].copy(), np.eye(4))
    image.header["descrip"], image.header["aux_file"] = b"Zacharias Quentin 19610213", b"HOSP-9917734"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Larkspur, Wendover"))
    image.to_filename(source / "volume.nii.gz")
    with pytest.raises(RuntimeError, match="run_cases"):
        run_inference(scratch_bundle, source, out, save_picture=False)
    terminal = capfd.readouterr()
    assert leaks(out, terminal.out, terminal.err, caplog.text) == []
    assert (out / "volume" / "volume_label.nii.gz").is_file()
    assert (out / "summary.csv").read_text().count("failed") >= 3


def test_anonymize_leaves_no_name_anywhere(
    scratch_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "Quentin").mkdir(parents=True)
    Image.fromarray(head_slice()).save(source / "Quentin" / "Zacharias.png")
    (source / "Quincy_Vandermolen.nii.gz").write_text("broken")
    (source / "Wendover").mkdir()
    series(source / "Wendover", skip=(2,))
    options = {"save_picture": False, "anonymize": "true", "anonymize_key": "k"}
    with pytest.raises(RuntimeError, match="run_cases"):
        run_inference(scratch_bundle, source, out, **options)
    terminal = capfd.readouterr()
    assert leaks(out, terminal.out, terminal.err, caplog.text) == []
    name = anonymous_name("Zacharias", "k")
    assert (out / name / f"{name}_label.nii.gz").is_file()
    assert anonymous_name("Zacharias") != name
    before = tree(out)
    with pytest.raises(RuntimeError, match="run_cases"):
        run_inference(scratch_bundle, source, out, **options)
    assert tree(out) == before


def test_anonymize_quotes_no_header_when_no_series_is_chosen(scratch_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    series(source, SeriesDescription="T2 of Quentin Zacharias")
    for anonymize in (False, True):
        with pytest.raises(RuntimeError) as caught:
            run_inference(scratch_bundle, source, tmp_path / "out", anonymize=anonymize)
        assert ("Zacharias" in sentence_of(caught.value)) is not anonymize


def test_a_header_cannot_put_a_formula_into_the_list_of_series(scratch_bundle: Path, tmp_path: Path) -> None:
    """Spreadsheets execute cells that begin with an equals sign."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    series(source, SeriesDescription='=HYPERLINK("http:x";"T1 MPRAGE")', skip=(2,))
    with pytest.raises(RuntimeError, match="run_cases"):
        run_inference(scratch_bundle, source, out, save_picture=False)
    text = (out / "series.csv").read_text(encoding="utf-8")
    assert "HYPERLINK" in text
    assert not any(cell.strip('"').startswith("=") for line in text.splitlines() for cell in line.split(","))


def test_every_pinned_package_is_there_with_the_checksums_of_its_files() -> None:
    """If not: make hashes"""
    text = (REPOSITORY / "requirements-hashed.txt").read_text(encoding="utf-8")
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"\n(?=\w)", text)[1:]:
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()  # type: ignore[union-attr]
        checksums = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
        found[canonicalize_name(name)] = version, len(checksums)
    pins = {canonicalize_name(name): version for name, version in pinned(REPOSITORY / "requirements.txt").items()}
    assert {name: found[name][0] for name in pins} == pins
    assert len(found) > 2 * len(pins)
    assert min(checksums for _, checksums in found.values()) >= 1
