"""Series as exports leave them: identifiers lost, images mixed, positions rounded. The right volume comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from scripts.dicom.output import write_dicom_results
from scripts.dicom.read import read_source
from scripts.dicom.selection import SeriesSelection
from scripts.dicom.series import find_series
from scripts.pipeline.cases import find_cases
from scripts.pipeline.readers import CaseLoadImaged
from tests.conftest import BUNDLE
from tests.dicom.synthetic import enhanced, save, slices
from tests.dicom.test_output import FINDINGS, arrays

VOXELS = np.random.default_rng(0).integers(0, 900, (9, 24, 32))
SPACING = (2.0, 0.5, 0.75)
RULES = BUNDLE / "configs" / "dicom_series.json"


def volume(folder: Path) -> tuple[np.ndarray, str]:
    """(slices, rows, columns) from the lowest slice up, and all notes, of the only case of a folder."""
    (case,) = find_cases(folder, SeriesSelection(RULES))
    image = CaseLoadImaged("image")(dict(case))["image"]
    return image.numpy().transpose(2, 1, 0)[::-1], str(image.meta["warnings"])


def series(step: int = 0, voxels: np.ndarray = VOXELS, **changes: Any) -> list[Dataset]:
    """An axial series whose instance numbers and UIDs begin after `step` images."""
    images = slices(voxels, "axial", SPACING, **changes)
    for image in images:
        image.InstanceNumber += step
        image.SOPInstanceUID = generate_uid(entropy_srcs=[str(step), str(image.InstanceNumber)])
    return images


def changed(images: Iterable[Dataset], change: Callable[[int], dict[str, Any]]) -> list[Dataset]:
    images = list(images)
    for i, image in enumerate(images):
        for name, value in change(i).items():
            setattr(image, name, value)
    return images


BRIGHT = VOXELS * 2
LOST_IDENTIFIERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "one instance UID for all": lambda i: {"SOPInstanceUID": "1.2.3"},
    "no instance UID of its own, nor number": lambda i: {"SOPInstanceUID": "1.2.3", "InstanceNumber": 1},
    "a series UID a slice": lambda i: {"SeriesInstanceUID": f"1.2.4.{i}"},
    "a series and frame UID a slice": lambda i: {"SeriesInstanceUID": f"1.2.4.{i}", "FrameOfReferenceUID": f"1.5.{i}"},
    "a series UID a slice, one instance UID": lambda i: {"SeriesInstanceUID": f"1.2.4.{i}", "SOPInstanceUID": "1.2.3"},
    "a series UID and number a slice": lambda i: {"SeriesInstanceUID": f"1.2.4.{i}", "SeriesNumber": i},
}


@pytest.mark.parametrize("kind", LOST_IDENTIFIERS)
def test_lost_identifiers_do_not_cost_a_slice(tmp_path: Path, kind: str) -> None:
    save(changed(series(), LOST_IDENTIFIERS[kind]), tmp_path / "s")
    voxels, _ = volume(tmp_path)
    np.testing.assert_array_equal(voxels, VOXELS)


def test_single_slices_of_different_scans_stay_apart(tmp_path: Path) -> None:
    """A localizer has three orientations; a repeated slice has one place."""
    for i, plane in enumerate(("axial", "coronal", "sagittal")):
        save(slices(VOXELS[:1], plane, SPACING, SeriesInstanceUID=f"1.{i}"), tmp_path / "s", lambda _, i=i: f"{i}.dcm")
    for i in range(3, 6):
        save(series(i, VOXELS[:1], SeriesInstanceUID=f"1.{i}"), tmp_path / "s", lambda _, i=i: f"{i}.dcm")
    assert len(find_series((tmp_path / "s").iterdir())) == 6


def test_one_series_uid_for_a_whole_study(tmp_path: Path) -> None:
    images = series() + series(9, BRIGHT, SeriesDescription="AX T2", SeriesNumber=7)
    images += slices(BRIGHT, "sagittal", SPACING, SeriesDescription="T1 KM", SeriesNumber=8)
    save(changed(images, lambda i: {"SeriesInstanceUID": "1.2.3"}), tmp_path / "s")
    np.testing.assert_array_equal(volume(tmp_path)[0], VOXELS)


def test_a_scout_or_an_empty_file_in_the_series_is_left_out(tmp_path: Path) -> None:
    voxels = np.random.default_rng(2).integers(0, 900, (12, 24, 32))
    scout = slices(VOXELS[:1, :, :20], "sagittal", (5.0, 2.0, 2.0))
    empty = series(20, voxels[:1])[0]
    del empty.PixelData
    got, note = volume(save([*series(voxels=voxels), *scout, empty], tmp_path / "s"))
    np.testing.assert_array_equal(got, voxels)
    assert "1 images of another size or orientation were left out" in note
    assert "1 files hold no pixels" in note


def test_copies_are_equal_in_position_and_pixels(tmp_path: Path) -> None:
    """Two images under one instance UID at one place are two when their pixels differ."""
    images = series(SOPInstanceUID="1.2.3") + series(9, BRIGHT, SOPInstanceUID="1.2.3", AcquisitionNumber=2)
    save(changed(images, lambda i: {"SOPInstanceUID": "1.2.3"}), tmp_path / "s")
    voxels, note = volume(tmp_path)
    np.testing.assert_array_equal(voxels, VOXELS)
    assert "18 images at 9 slice positions: those of AcquisitionNumber '1' were taken" in note


def mixed(second: dict[str, Any], first: dict[str, Any] | None = None) -> list[Dataset]:
    """A second set of images at the same positions, which comes first by name."""
    return series(9, BRIGHT, **second) + series(**(first or {}))


SEVERAL_A_POSITION = {
    "before and after contrast agent": mixed({"AcquisitionNumber": 2}),
    "agent named in the later images": mixed({"ContrastBolusAgent": "Gadovist"}),
    "time points": mixed({"TemporalPositionIdentifier": 2}, {"TemporalPositionIdentifier": 1}),
    "magnitude and phase": mixed({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}),
    "real and magnitude": mixed({"ImageType": ["ORIGINAL", "PRIMARY", "R", "ND"]}),
    "phase map of Philips": mixed({"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]}),
    "water and fat": mixed({"ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]},
                           {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}),
    "echoes": mixed({"EchoTime": 12.5}),
    "three echoes": mixed({"EchoTime": 12.5}) + series(18, BRIGHT, EchoTime=7.5),
    "phase and echoes": mixed({"EchoTime": 12.5}) + series(18, BRIGHT, ImageType=["ORIGINAL", "PRIMARY", "P"]),
    "acquired at other times": mixed({"AcquisitionTime": "112233"}),
    "nothing but numbers": mixed({}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL_A_POSITION)
def test_the_t1w_magnitude_of_the_first_acquisition_is_taken(tmp_path: Path, kind: str) -> None:
    save(SEVERAL_A_POSITION[kind], tmp_path / "s")
    voxels, note = volume(tmp_path)
    np.testing.assert_array_equal(voxels, VOXELS)
    assert "images at 9 slice positions" in note


def test_an_acquisition_that_lacks_slices_at_the_end_is_still_the_first(tmp_path: Path) -> None:
    save(series(AcquisitionNumber=1)[:8] + series(9, BRIGHT, AcquisitionNumber=2), tmp_path / "s")
    np.testing.assert_array_equal(volume(tmp_path)[0], VOXELS[:8])
    save(series(AcquisitionNumber=1)[:4] + series(9, BRIGHT, AcquisitionNumber=2), tmp_path / "broken_off")
    np.testing.assert_array_equal(volume(tmp_path / "broken_off")[0], BRIGHT)


@pytest.mark.parametrize("twice", [{}, {"InstanceNumber": 10}, {"AcquisitionNumber": 2, "AcquisitionTime": "090909"}])
def test_a_slice_that_is_there_twice(tmp_path: Path, twice: dict[str, Any]) -> None:
    again = series(9, VOXELS, **twice)[4:5]
    save(series() + again, tmp_path / "s")
    voxels, note = volume(tmp_path)
    np.testing.assert_array_equal(voxels, VOXELS)
    assert "repeated slices were left out" in note or "were taken" in note


def frames(images: list[Dataset], **changes: Any) -> Dataset:
    """An enhanced object; attributes go to its top."""
    image = enhanced(images)
    image.SOPInstanceUID = generate_uid()
    for name, value in changes.items():
        setattr(image, name, value)
    return image


def framed(image: Dataset, change: Callable[[int], dict[str, dict[str, Any]]]) -> Dataset:
    """Functional groups added to the frames: name of the sequence, attributes."""
    for i, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        for sequence, attributes in change(i).items():
            item = Dataset()
            for name, value in attributes.items():
                setattr(item, name, value)
            setattr(frame, sequence, [item])
    return image


def phase_after(i: int) -> dict[str, dict[str, Any]]:
    kind = {"FrameType": ["ORIGINAL", "PRIMARY", "T1", "PHASE" if i >= 9 else "NONE"]}
    return {"MRImageFrameTypeSequence": kind | {"ComplexImageComponent": "PHASE" if i >= 9 else "MAGNITUDE"}}


def short_range(i: int) -> dict[str, dict[str, Any]]:
    return {"RealWorldValueMappingSequence": {
        "RealWorldValueSlope": 2.0, "RealWorldValueIntercept": 10.0,
        "RealWorldValueFirstValueMapped": 0, "RealWorldValueLastValueMapped": 100,
    }}  # fmt: skip


def no_spacing(image: Dataset) -> Dataset:
    image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 0
    return image


ENHANCED = {
    "two halves": [frames(series()[:5]), frames(series()[5:])],
    "one frame a file": [frames([image]) for image in series()],
    "interleaved": [frames(series()[::2]), frames(series()[1::2])],
    "magnitude and phase": [framed(frames(series() + series(9, BRIGHT)), phase_after)],
    "two echoes": [
        framed(frames(series() + series(9, BRIGHT)), lambda i: {"MREchoSequence": {"EffectiveEchoTime": 3 + (i >= 9)}})
    ],
    "spacing of 0": [no_spacing(frames(series()))],
    "a short range of real values": [framed(frames(series()), short_range)],
    "a frame twice": [frames(series() + series(9)[3:4])],
}  # fmt: skip


@pytest.mark.parametrize("kind", ENHANCED)
def test_enhanced_objects(tmp_path: Path, kind: str) -> None:
    save(ENHANCED[kind], tmp_path / "s")
    np.testing.assert_array_equal(volume(tmp_path)[0], 2.0 * VOXELS + 10)


OFFSET = np.array([0.03, 0.04, 0])


def turned(degrees: float) -> np.ndarray:
    t = np.radians(degrees)
    return np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])


@pytest.mark.parametrize(("degrees", "mm"), [(0, 0.9), (12, 1.0), (25, 0.8), (33, 1.5)])
def test_positions_rounded_to_a_tenth(tmp_path: Path, degrees: float, mm: float) -> None:
    voxels = np.random.default_rng(1).integers(0, 900, (60, 24, 32))
    turn, images = turned(degrees), slices(voxels, "axial", (mm, 0.5, 0.75))
    exact = [turn @ (np.array(image.ImagePositionPatient, float) + OFFSET) for image in images]
    for image, position in zip(images, exact, strict=True):
        image.ImageOrientationPatient = [*np.round(turn[:, 0], 6), *np.round(turn[:, 1], 6)]
        image.ImagePositionPatient = [round(float(v), 1) for v in position]
    source = read_source(save(images, tmp_path / "s"))
    np.testing.assert_array_equal(source.array().transpose(2, 1, 0)[::-1], voxels)
    for k, position in enumerate(exact):
        np.testing.assert_allclose(apply_affine(source.affine, [0, 0, 59 - k]) * [-1, -1, 1], position, atol=0.15)


def test_a_sheared_stack_lies_straight_at_the_same_place(tmp_path: Path) -> None:
    """As from a tilted gantry: each voxel keeps its place in the world, also in the NIfTI that comes of it."""
    voxels = np.zeros((20, 40, 32), int)
    voxels[4:16, 10:30, 8:24] = 500
    voxels[9:12, 18:22, 14:18] = 900
    images = slices(voxels, "axial", (3.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    for i, image in enumerate(images):
        image.ImagePositionPatient = [0.0, 0.8 * i, 3.0 * i]
    save(images, tmp_path / "s")
    (case,) = find_cases(tmp_path)
    image = CaseLoadImaged("image")(dict(case))["image"]
    assert "sheared by 15 degrees" in str(image.meta["warnings"])
    axes = np.asarray(image.affine)[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag([1, 1, 9]), atol=1e-6)
    for z in range(4, 16, 3):  # each slice on its own: its centre of mass
        slab = np.where(np.arange(20)[:, None, None] == z, voxels, 0)
        index = np.argwhere(slab)
        weights = slab[tuple(index.T)]
        place = np.average(np.stack([index[:, 2], index[:, 1] + 0.8 * z, np.full(len(index), 3.0 * z)], -1), 0, weights)
        index = np.argwhere(image.numpy() > 0)
        points = apply_affine(np.asarray(image.affine), index) * [-1, -1, 1]
        of_slice = np.abs(points[:, 2] - 3.0 * z) < 0.1
        weights = image.numpy()[tuple(index[of_slice].T)]
        np.testing.assert_allclose(np.average(points[of_slice], 0, weights), place, atol=0.01)


def test_padding_far_below_the_image_is_background(tmp_path: Path) -> None:
    for padding, stored, name in ((-2000, -2000, "signed"), (63536, -2000, "unsigned"), (32767, 32767, "above")):
        images = series(voxels=VOXELS + 1, PixelRepresentation=1, RescaleSlope=2, RescaleIntercept=-5)
        for image in images:
            pixels = np.frombuffer(image.PixelData, np.int16).reshape(24, 32).copy()
            pixels[:5] = stored
            image.PixelData = pixels.tobytes()
            image.add_new("PixelPaddingValue", "US" if padding > 40000 else "SS", padding)
        voxels, _ = volume(save(images, tmp_path / name))
        np.testing.assert_array_equal(voxels[:, 5:], 2 * VOXELS[:, 5:] - 3)
        assert (voxels[:, :5] == voxels[:, 5:].min()).all()


def test_a_slice_of_its_own_scale_is_rescaled_by_it(tmp_path: Path) -> None:
    images = changed(series(), lambda i: {"RescaleSlope": 1 + i, "RescaleIntercept": i})
    np.testing.assert_array_equal(
        volume(save(images, tmp_path / "s"))[0], VOXELS * np.arange(1, 10)[:, None, None] + np.arange(9)[:, None, None]
    )


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_suffix_are_found(tmp_path: Path, implicit: bool) -> None:
    (tmp_path / "s").mkdir()
    for i, image in enumerate(series()):
        del image.file_meta
        image.save_as(
            tmp_path / "s" / f"IM{i:04d}", implicit_vr=implicit, little_endian=True, enforce_file_format=False
        )
    (tmp_path / "s" / "README").write_text("no image")
    np.testing.assert_array_equal(volume(tmp_path)[0], VOXELS)


def test_results_refer_to_the_frames_that_were_taken(tmp_path: Path) -> None:
    """Of an object with magnitude and phase; a stack without identifiers of its own can have no results."""
    folder = save([framed(frames(series() + series(9, BRIGHT)), phase_after)], tmp_path / "s")
    source = read_source(folder)
    files = write_dicom_results(folder, arrays(source), FINDINGS, tmp_path / "out")
    assert len(files) == 8
    save(changed(series(), LOST_IDENTIFIERS["one instance UID for all"]), tmp_path / "lost")
    assert "lacks the identifiers of its study" in read_source(tmp_path / "lost").unfit


def test_a_study_with_t1_before_and_after_contrast_agent(tmp_path: Path) -> None:
    """Each pair of names, of the series before and the one after; "" leaves the header's agent to tell."""
    pairs = [("AX T1 PRE GAD", "AX T1 POSTGAD"), ("T1 SE", "T1 SE +C"), ("t1_tse", "t1_tse_KM"), ("T1 nativ", "T1 KM")]
    for i, (before, after) in enumerate(pairs):
        for k, name in enumerate((after, before)):
            uids = {"StudyInstanceUID": f"1.9.{i}", "SeriesInstanceUID": f"1.9.{i}.{k}"}
            save(series(SeriesDescription=name, SeriesNumber=9 - k, **uids), tmp_path / str(i) / str(k))
    selection = SeriesSelection(RULES)
    cases = find_cases(tmp_path, selection)
    assert [Path(case["image"]).name for case in cases] == ["1"] * len(pairs)
    assert [d.reason for d in selection.decisions if not d.chosen] == [
        f"after contrast agent, by its name; '{before}' (series 8) was taken" for before, _ in pairs
    ]


EARLY, LATE = {"AcquisitionTime": "100000"}, {"AcquisitionTime": "102000"}
AGENT = {"ContrastBolusAgent": "Gadovist"}
UNCLEAR: dict[str, tuple[dict, dict, int, str]] = {
    "one name twice": ({"SeriesDescription": "AX T1"} | EARLY, {"SeriesDescription": "AX T1"} | LATE,
                       0, "of the same name is earlier"),
    "later than an agent": ({"SeriesDescription": "AX T1 +C"} | EARLY, {"SeriesDescription": "SAG T1"} | LATE,
                            1, "perhaps not a T1w image without contrast agent"),
    "agent against name": ({"SeriesDescription": "AX T1 ohne KM"} | AGENT, {"SeriesDescription": "AX T2"},
                           0, "its header names one"),
    "with and without": ({"SeriesDescription": "T1 W/WO", "SeriesNumber": 7},
                         {"SeriesDescription": "T1-C", "SeriesNumber": 3}, 1, "not 'T1 W/WO'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCLEAR)
def test_where_it_stays_unclear_a_warning_says_what_was_taken(tmp_path: Path, kind: str) -> None:
    *both, taken, sentence = UNCLEAR[kind]
    for i, changes in enumerate(both):
        untimed = {"AcquisitionTime": None, "SeriesTime": None, "SeriesInstanceUID": f"1.7.{i}"}
        save(series(**{**untimed, **changes}), tmp_path / str(i))
    (case,) = find_cases(tmp_path, SeriesSelection(RULES))
    assert Path(case["image"]).name == str(taken)
    assert sentence in case["note"]
