"""Which files of folders, archives and DICOM media are images to analyse, and why others are not."""

from __future__ import annotations

import ast
import atexit
import contextlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from ..common.errors import PhanesInputError
from ..dicom.headers import is_dicom_file

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".mgz", ".nrrd", ".mha", ".png")
ACCEPTED = (
    "*.nii, *.nii.gz, *.hdr with *.img, *.mgz, *.nrrd, *.mha, *.png (one axial slice, anterior up), DICOM files, "
    "a zip of these or a DICOMDIR"
)
RECORDS = ".phanes"  # folder in an output folder
TEXTS = (".json", ".tsv", ".csv", ".txt", ".md", ".html", ".xml", ".pdf", ".log", ".bval", ".bvec")  # seen, no images
MAX_UNPACKED_BYTES = 2**33
ARCHIVES = 2  # an archive in an archive is unpacked, too; one in that is not

# Suffixes of BIDS files that hold no T1w image (bids-specification.readthedocs.io), and of its derivatives.
NO_T1W = frozenset(
    re.findall(
        r"\w+",
        "T2w PDw T2starw FLAIR PDT2 inplaneT1 inplaneT2 angio UNIT1 MP2RAGE MEGRE MESE MPM MTS MTR IRT1 VFA T1map "
        "T2map T2starmap R1map R2map R2starmap PDmap MTRmap MTsat MTVmap MTRmap T1rho M0map MWFmap Chimap S0map swi "
        "bold sbref boldref cbv dwi asl m0scan perf pet phase phase1 phase2 phasediff magnitude magnitude1 magnitude2 "
        "fieldmap epi TB1map RB1map TB1EPI TB1DAM TB1AFI mask dseg probseg defacemask svs mrsi",
    )
)
BIDS = re.compile(r"sub-[^_]+(?:_[a-zA-Z]+-[^_]+)*_([A-Za-z0-9]+)")
ASIDE = ("derivatives", "sourcedata", "code")  # folders of a BIDS data set beside its raw data
BESIDE_RAW = "beside the raw data of a BIDS folder: name it to analyse it"
FREESURFER = ("T1.mgz", "orig.mgz", "brain.mgz")  # one is the head; the others in the folder are made of it


@dataclass
class Found:
    """What lies at the paths that a user gave.

    Attributes:
        images: files of the kinds `SUFFIXES`, and what only looks like such a file.
        dicoms: DICOM files.
        passed_over: files and folders that are not taken, and why.
        named: the user named nothing but DICOM files.
    """

    images: list[Path] = field(default_factory=list)
    dicoms: list[Path] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)
    named: bool = False


def paths_of(dataset_dir: str | Path | Sequence[str | Path]) -> list[Path]:
    """The paths of `dataset_dir`: one, or a list, which may be a text.

    Raises:
        PhanesInputError: a path does not exist, or there is none.
    """
    given = dataset_dir
    if isinstance(given, str) and given.strip().startswith("[") and not Path(given).exists():
        with contextlib.suppress(SyntaxError, ValueError):
            given = ast.literal_eval(given.strip())
    listed = [given] if isinstance(given, (str, Path)) else [str(one) for one in given]
    for one in listed or [""]:
        if not str(one).strip() or not Path(one).expanduser().exists():
            raise PhanesInputError(f"The input '{one}' does not exist: give a folder or a file ({ACCEPTED}).")
    return [Path(one).expanduser() for one in listed]


def look_into(paths: Sequence[Path]) -> Found:
    """Everything at some paths that exist, at any depth, each kind in sorted order."""
    found = Found(named=all(path.is_file() for path in paths))
    for path in paths:
        if path.is_dir():
            _walk(path, found)
        elif path.name.upper() == "DICOMDIR":
            found.named = False
            _read_dicomdir(path, found)
        else:
            found.named &= not path.name.lower().endswith(".zip")
            _take(path, found, named=True)
    found.images, found.dicoms = sorted({*found.images}), sorted({*found.dicoms})
    return found


def _walk(root: Path, found: Found, archives: int = ARCHIVES) -> None:
    """Add what lies below a folder. Archives are unpacked, and those in them, `archives` deep.

    What only looks like an image counts, too: a folder or a pipe called `x.nii.gz`, a broken link, a folder without
    permission. Reading it says what it is. Folders of earlier results are passed over.
    """
    below = Found()
    visited: set[Path] = set()
    folders: list[Path] = []
    for name, subfolders, files in os.walk(
        root, followlinks=True, onerror=lambda error: found.images.append(Path(error.filename))
    ):
        folder = Path(name)
        if folder.resolve() in visited or is_output(folder):  # visited: a link that leads back
            subfolders.clear()
            continue
        visited.add(folder.resolve())
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        aside = _aside(subfolders, files)
        below.passed_over += [(folder / name, reason) for name, reason in sorted(aside.items())]
        subfolders[:] = [name for name in subfolders if name not in aside]
        folders += [folder / name for name in subfolders if name.lower().endswith(SUFFIXES)]
        for name in sorted(files):
            if not name.startswith(".") and name not in aside:
                _take(folder / name, below, archives=archives)
    full = {parent for path in (*below.images, *below.dicoms) for parent in path.parents}
    found.images += below.images + [folder for folder in folders if folder not in full]
    found.dicoms += below.dicoms
    found.passed_over += below.passed_over


def _aside(subfolders: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Names in a folder that are no images to analyse, because of what lies beside them: name -> why."""
    if "dataset_description.json" in files or any(name.startswith("sub-") for name in subfolders):
        return dict.fromkeys(set(ASIDE) & set(subfolders), BESIDE_RAW)
    if {"mri", "surf"} <= set(subfolders):
        return dict.fromkeys(set(subfolders) - {"mri"}, "made by FreeSurfer, no image")
    head = next((name for name in FREESURFER if name in files), "")
    if head and {"aseg.mgz", "orig.mgz", "brainmask.mgz"} & set(files):
        made = {name for name in files if name.endswith(".mgz")} - {head} | set(subfolders)
        return dict.fromkeys(made, f"made by FreeSurfer: '{head}' is taken instead")
    return {}


def _take(path: Path, found: Found, named: bool = False, archives: int = ARCHIVES) -> None:
    """Add one file. If the user named it, its name need not say T1w."""
    name = path.name.lower()
    header = next((p for end in (".hdr", ".HDR") if (p := path.with_suffix(end)).exists()), None)
    if name.endswith(".img") and header is not None:
        found.images += [header] * named  # beside its header it is found by that
    elif name.endswith(".seg.nrrd") and not named:
        found.passed_over.append((path, "its name says that it is a segmentation"))
    elif name.endswith(SUFFIXES):
        bids = BIDS.fullmatch(re.sub(r"\.[a-z.]+$", "", path.name, flags=re.IGNORECASE))
        other = bids is not None and (bids[1] in NO_T1W or re.search("_part-(phase|real|imag)_", path.name))
        if other and not named:
            found.passed_over.append((path, "its BIDS name says that it is no T1w image"))
        else:
            found.images.append(path)
    elif name.endswith(".zip") and not archives:
        found.passed_over.append((path, "an archive too deep in archives; unpack it"))
    elif name.endswith(".zip"):
        try:
            _walk(_unpacked(path), found, archives - 1)
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            found.passed_over.append((path, f"cannot be unpacked ({' '.join(str(error).split())[:80]})"))
    elif name == "dicomdir" or not path.is_file():
        return
    elif is_dicom_file(path):
        found.dicoms.append(path)
    elif named or not name.endswith(TEXTS):
        found.passed_over.append((path, "no accepted kind" + ", without its .hdr" * name.endswith(".img")))


def _read_dicomdir(path: Path, found: Found) -> None:
    """Add the images that a DICOMDIR lists."""
    try:
        records = pydicom.dcmread(path).get("DirectoryRecordSequence") or []
    except Exception as error:
        raise PhanesInputError(f"'{path}' cannot be read: give the folder it lies in.") from error
    for record in records:
        parts = record.get("ReferencedFileID") or []
        file = path.parent.joinpath(*([parts] if isinstance(parts, str) else parts))
        if parts and file.is_file():
            _take(file, found, named=True)
        elif parts:
            found.passed_over.append((file, "the DICOMDIR lists it, but it is not there"))


def _unpacked(path: Path) -> Path:
    """Unpack an archive into a folder of its own, which is removed when the process ends.

    Raises:
        ValueError: it is larger than any study.
        OSError, RuntimeError, zipfile.BadZipFile, NotImplementedError: it is damaged or encrypted.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise ValueError(f"holds more than {MAX_UNPACKED_BYTES} bytes")
        holder = Path(tempfile.mkdtemp(prefix="phanes_"))
        atexit.register(shutil.rmtree, holder, ignore_errors=True)
        archive.extractall(holder / path.stem)
    return holder / path.stem


def is_output(folder: Path) -> bool:
    """True for a folder of results: it holds the records of a run."""
    return (folder / RECORDS).is_dir()
