"""DICOM results: valid, in the source's study, at the right place; read back by highdicom, SimpleITK and others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset

from scripts.common.errors import PhanesInputError
from scripts.common.options import as_bool
from scripts.dicom.anatomy import LOCATIONS
from scripts.dicom.case_writer import regions
from scripts.dicom.concepts import SHARE, Findings, Region, Software
from scripts.dicom.derived import stored_values
from scripts.dicom.output import write_dicom_results
from scripts.dicom.read import SourceSeries, read_source
from scripts.dicom.selection import SeriesSelection
from scripts.pipeline.cases import find_cases
from scripts.pipeline.findings import Finding
from scripts.space.structures import STRUCTURES, Share
from tests.conftest import BUNDLE, run_inference
from tests.dicom.synthetic import PLANES, STUDY, enhanced, header, save, slices
from tests.heads import small_template

SPACING = (2.0, 0.5, 0.75)
SHARES = (Share("thalamus", "left", 0.7), Share("third ventricle", "", 0.2), Share("pallidum", "right", 0.04))
REGIONS = (Region("Finding 1", 108.0, 0.5, 0.9, 0.05, 0.02, SHARES), Region("Finding 2", 0.75, 0.4, 0.4))
FINDINGS = Findings(anomaly_score=0.0123, threshold=0.02, regions=REGIONS, healthy_below=0.85)
ONE = Findings(anomaly_score=0.0123, threshold=0.02, regions=REGIONS[:1])
RECORD = {
    "versions": {"PHANES": "9.8.7", "torch": "2.0"},
    "settings": {"slices": "brain"},
    "weights_sha256": "ab" * 32,
    "calibrated": "2026-11-27",
}
SOFTWARE = Software(RECORD)
LPS = np.array([-1.0, -1.0, 1.0])


def arrays(source: SourceSeries) -> dict[str, np.ndarray]:
    """A label of two findings, a map with a centroid of its own, pseudo-healthy values, (columns, rows, slices)."""
    shape = tuple(source.geometry.spatial_shape[::-1])
    label = np.zeros(shape, np.uint8)
    label[10:22, 5:9, 2:5] = 1
    label[30, 20, 4] = 2
    anomaly = np.where(label, np.random.default_rng(5).random(shape), 0).astype(np.float32)
    analysed = np.zeros(shape, np.uint8)
    analysed[..., 1:6] = 1
    pseudo_healthy = np.where(label, 2017.3, source.array()).astype(np.float32)
    return {"label": label, "anomaly": anomaly, "pseudo_healthy": pseudo_healthy, "analysed": analysed}


def written(tmp_path: Path, images: list[Dataset]) -> tuple[Path, SourceSeries, dict[str, np.ndarray]]:
    folder = save(images, tmp_path / "source")
    source = read_source(folder)
    data = arrays(source)
    picture = np.full((20, 30, 3), 90, np.uint8)
    write_dicom_results(folder, data, FINDINGS, tmp_path / "out" / "dicom", [picture], SOFTWARE)
    return tmp_path / "out" / "dicom", source, data


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, (7, 32, 48))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SourceSeries, dict[str, np.ndarray]]:
    return written(tmp_path_factory.mktemp("results"), slices(voxels(), "oblique", SPACING))


def all_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def centroid(weights: np.ndarray, affine: np.ndarray) -> np.ndarray:
    index = np.argwhere(weights > 0)
    return np.average(apply_affine(affine, index), axis=0, weights=weights[weights > 0])


def frames_of(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, columns) and (4, 4) from (row, column) to LPS of each frame, from the attributes by the standard alone."""
    ds = pydicom.dcmread(path)
    pixels = (
        np.frombuffer(ds.FloatPixelData, np.float32).reshape(-1, ds.Rows, ds.Columns)
        if "FloatPixelData" in ds
        else ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    )
    shared = ds.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in ds else None
    result = []
    for i, frame in enumerate(pixels):
        holder = ds if shared is None else shared.PlaneOrientationSequence[0]
        row, column = np.array(holder.ImageOrientationPatient, float).reshape(2, 3)
        spacing = (ds if shared is None else shared.PixelMeasuresSequence[0]).PixelSpacing
        place = ds if shared is None else ds.PerFrameFunctionalGroupsSequence[i].PlanePositionSequence[0]
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = column * spacing[0], row * spacing[1]
        affine[:3, 3] = place.ImagePositionPatient
        result.append((frame, affine))
    return result


def dicom_centroid(files: list[Path], value: float | None = None) -> np.ndarray:
    """World centroid (RAS) of the non-zero pixels of an object, or of those with one value."""
    points, weights = [], []
    for frame, affine in (item for file in files for item in frames_of(file)):
        chosen = frame > 0 if value is None else frame == value
        for row, column in np.argwhere(chosen):
            points.append(affine[:3, 3] + row * affine[:3, 0] + column * affine[:3, 1])
            weights.append(frame[row, column] if value is None else 1.0)
    return np.average(points, axis=0, weights=weights) * LPS


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_every_object_is_where_its_nifti_is(tmp_path: Path, plane: str, reverse: bool) -> None:
    """World centroids of label and map, over six orientations, negated cosines and reversed instance order."""
    images = slices(voxels(), plane, SPACING, reverse=reverse)
    out, source, data = written(tmp_path, images[::-1] if reverse else images)
    half = min(SPACING) / 2
    label = centroid((data["label"] > 0).astype(float), source.affine)
    anomaly = centroid(data["anomaly"].astype(float), source.affine)
    assert np.linalg.norm(dicom_centroid([out / "segmentation.dcm"]) - label) < half / 100
    assert np.linalg.norm(dicom_centroid([out / "anomaly_map.dcm"]) - anomaly) < half / 100
    derived = sorted((out / "pseudo_healthy").iterdir())
    assert np.linalg.norm(dicom_centroid(derived, value=2017) - label) < half / 100


@pytest.mark.parametrize("multiframe", [False, True])
def test_label_and_map_come_back_exactly_on_the_sources_grid(tmp_path: Path, multiframe: bool) -> None:
    images = slices(voxels(), "sagittal", SPACING)
    out, source, data = written(tmp_path, [enhanced(images)] if multiframe else images)
    for name, key, read in (
        ("segmentation.dcm", "label", highdicom.seg.segread),
        ("anomaly_map.dcm", "anomaly", highdicom.imread),
    ):
        volume = read(out / name).get_volume(**({"combine_segments": True} if key == "label" else {}))
        back = volume.match_geometry(source.geometry).array.transpose(2, 1, 0)
        np.testing.assert_array_equal(back, data[key])


def test_simpleitk_resamples_the_segmentation_to_the_label(results: Any, tmp_path: Path) -> None:
    """ITK's own reader and resampler, onto the grid of the label NIfTI; it knows one segment only."""
    out, source, data = results
    data = {**data, "label": np.minimum(data["label"], 1)}
    write_dicom_results(source, data, ONE, tmp_path / "dicom")
    segmentation = SimpleITK.ReadImage(str(tmp_path / "dicom" / "segmentation.dcm"))
    nib.save(nib.Nifti1Image(data["label"], source.affine), tmp_path / "label.nii.gz")
    grid = SimpleITK.ReadImage(str(tmp_path / "label.nii.gz"))
    back = SimpleITK.Resample(segmentation, grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(back).transpose(2, 1, 0) > 0, data["label"] > 0)
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(out / "pseudo_healthy"))
    derived = SimpleITK.Resample(
        SimpleITK.ReadImage(files), grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, -1
    )
    got = SimpleITK.GetArrayFromImage(derived).transpose(2, 1, 0)[..., 1:6]
    np.testing.assert_allclose(got, np.round(data["pseudo_healthy"][..., 1:6]))


def test_results_that_lie_flipped_and_permuted_find_their_place(results: Any, tmp_path: Path) -> None:
    """Other tools keep other axes; the affine says which, and nothing is interpolated."""
    out, source, data = results
    turned = nib.orientations.axcodes2ornt("SPL")
    images = {name: nib.Nifti1Image(array, source.affine).as_reoriented(turned) for name, array in data.items()}
    affine = images["label"].affine
    write_dicom_results(
        [str(image.filename) for image in source.images],
        {name: np.asarray(image.dataobj) for name, image in images.items()},
        FINDINGS,
        tmp_path / "dicom",
        affine=affine,
    )
    for name in ("segmentation.dcm", "anomaly_map.dcm"):
        for (a, where), (b, there) in zip(frames_of(out / name), frames_of(tmp_path / "dicom" / name), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(where, there, atol=1e-4)
    with pytest.raises(PhanesInputError, match="has another grid than the results"):
        write_dicom_results(source, data, FINDINGS, tmp_path / "x", affine=source.affine @ np.diag([1.1, 1, 1, 1]))
    assert not (tmp_path / "x").exists()


def test_objects_belong_to_the_sources_study_and_say_research_use_only(results: Any) -> None:
    out, _, _ = results
    objects = [pydicom.dcmread(path) for path in all_files(out)]
    assert {ds.Modality for ds in objects} == {"SEG", "OT", "MR", "SR"}
    series: dict[str, set[str]] = {}
    for ds in objects:
        assert ds.StudyInstanceUID == STUDY
        assert ds.PatientID == "P1"
        assert ds.get("FrameOfReferenceUID", header().FrameOfReferenceUID) == header().FrameOfReferenceUID
        assert "research use only" in ds.SeriesDescription
        assert "research use only" in ds.ManufacturerModelName
        assert ds.SoftwareVersions[0] == "9.8.7"
        series.setdefault(ds.SeriesInstanceUID, set()).add(ds.Modality)
        text = "\n".join(str(element.value) for element in ds.iterall() if element.VR not in ("SQ", "OW", "OB", "OF"))
        assert "Research use only" in text
        assert not re.search(r"\bnormal\b", text, flags=re.IGNORECASE)
    assert all(len(modalities) == 1 for modalities in series.values())
    assert len({ds.SeriesNumber for ds in objects}) == len(series) == 5
    uids = [ds.SOPInstanceUID for ds in objects]
    assert len(set(uids)) == len(uids) == 9


def test_writing_twice_gives_new_identifiers(tmp_path: Path) -> None:
    images = slices(voxels(), "axial", SPACING)
    first, _, _ = written(tmp_path / "a", images)
    second, _, _ = written(tmp_path / "b", images)
    uids = [{pydicom.dcmread(p).SOPInstanceUID for p in all_files(out)} for out in (first, second)]
    assert not uids[0] & uids[1]


def test_a_segment_a_finding_named_coloured_and_with_its_algorithm(results: Any) -> None:
    ds = pydicom.dcmread(results[0] / "segmentation.dcm")
    assert [segment.SegmentLabel for segment in ds.SegmentSequence] == [
        "Finding 1: left thalamus (research use only)", "Finding 2 (research use only)",
    ]  # fmt: skip
    assert len({tuple(segment.RecommendedDisplayCIELabValue) for segment in ds.SegmentSequence}) == 2
    assert len({segment.TrackingUID for segment in ds.SegmentSequence}) == 2
    segment = ds.SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("PHANES", "9.8.7")
    for told in ("slices=brain", f"weights={'ab' * 32}", "calibrated=2026-11-27"):
        assert told in algorithm.AlgorithmParameters
    assert ds.SoftwareVersions == ["9.8.7", "torch 2.0", "weights abababababababab"]
    places = [
        (one.CodeMeaning, [side.CodeMeaning for side in one.get("AnatomicRegionModifierSequence", [])])
        for one in segment.AnatomicRegionSequence
    ]
    assert places == [("Thalamus", ["Left"]), ("Third ventricle", [])]
    assert ds.SegmentSequence[1].AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Region above anomaly threshold"
    assert int(ds.NumberOfFrames) == 2 * 3  # the slices that hold findings, without a gap, for each


def test_weak_findings_share_the_last_number() -> None:
    found = [Finding(n, 10.0, 0, 0, 0, 0, 0, 0, "left", (), 0.2, 1.0 / n, None, None) for n in range(1, 24)]
    named = regions(found)
    assert [region.name for region in named] == [*(f"Finding {n}" for n in range(1, 20)), "Findings 20 to 23"]
    assert (named[-1].volume_mm3, named[-1].peak) == (40.0, 1 / 20)
    assert [region.name for region in regions(found[:20])][-1] == "Finding 20"


def test_every_structure_of_the_atlas_has_a_code_of_its_own_and_a_segments_name_fits() -> None:
    assert set(LOCATIONS) == set(STRUCTURES)
    assert len({code.value for code in LOCATIONS.values()}) == len(STRUCTURES)
    longest = max(STRUCTURES, key=len)
    assert (
        len(f"{Region('Finding 19', 1, 1, 1, structures=[Share(longest, 'right', 1)]).label} (research use only)") <= 64
    )


def test_the_report_holds_the_numbers(results: Any) -> None:
    out, _, _ = results
    report = highdicom.sr.srread(out / "report.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    values = [{one.name.value: (one.value, one.unit.value) for one in group.get_measurements()} for group in groups]
    volume = values[0].pop("118565006")
    assert volume == (108.0, "mm3")
    values[0].pop("share")
    assert {name: value for name, (value, _) in values[0].items()} == {
        "mean": 0.5, "peak": 0.9, "healthy": 0.05, "healthy-large": 0.02,
    }  # fmt: skip
    sites = [(site.value.value, site.laterality and site.laterality.value) for site in groups[0].finding_sites]
    assert sites == [("42695009", "7771000"), ("49841001", None)]  # SNOMED CT: thalamus, left; third ventricle
    of_structures = [
        (one.finding_sites[0].value.meaning, one.value) for one in groups[0].get_measurements() if one.name == SHARE
    ]
    assert of_structures == [("Thalamus", 0.7), ("Third ventricle", 0.2), ("Globus Pallidus", 0.04)]
    assert [site.value.value for site in groups[1].finding_sites] == ["12738006"]  # the brain
    assert "healthy" not in values[1]
    segmentation = pydicom.dcmread(out / "segmentation.dcm")
    for number, group in enumerate(groups, start=1):
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [number]
    (whole,) = report.content.get_image_measurement_groups()
    found = {measurement.name.value: measurement.value for measurement in whole.get_measurements()}
    assert found == {"score": 0.0123, "threshold": 0.02, "healthy-below": 0.85}


def test_an_empty_label_is_a_valid_object_that_marks_nothing(tmp_path: Path) -> None:
    folder = save(slices(voxels(), "axial", SPACING), tmp_path / "source")
    source = read_source(folder)
    data = {**arrays(source), "label": np.zeros(source.geometry.spatial_shape[::-1], np.uint8)}
    files = write_dicom_results(source, data, Findings(0.001, 0.02), tmp_path / "dicom")
    ds = pydicom.dcmread(tmp_path / "dicom" / "segmentation.dcm")
    assert ds.pixel_array.sum() == 0
    assert int(ds.NumberOfFrames) == 5  # all that were analysed
    assert ds.SegmentSequence[0].SegmentLabel == "No finding (research use only)"
    assert not highdicom.sr.srread(tmp_path / "dicom" / "report.dcm").content.get_volumetric_roi_measurement_groups()
    check_with_dicom3tools(files, folder)


def check_with_dicom3tools(files: list[Path], source: Path) -> None:
    """No error of dciodvfy in any object, none of dcentvfy among them and their source."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed")
    for path in [*files, *sorted(source.glob("*.dcm"))[:1]]:
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], f"{path.name}: {said}"
    everything = [*map(str, files), *map(str, source.glob("*.dcm"))]
    done = subprocess.run(["dcentvfy", *everything], capture_output=True, text=True, check=False)
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert done.returncode == 0


def test_dicom3tools_find_no_error(results: Any) -> None:
    check_with_dicom3tools(all_files(results[0]), Path(str(results[1].images[0].filename)).parent)


def test_dicom3tools_find_no_error_for_an_enhanced_source(tmp_path: Path) -> None:
    out, _, _ = written(tmp_path, [enhanced(slices(voxels(), "axial", SPACING))])
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed")
    for path in all_files(out):
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], f"{path.name}: {said}"


def test_dcmtk_reads_every_object(results: Any) -> None:
    if shutil.which("dcmdump") is None:
        pytest.skip("DCMTK is not installed")
    for path in all_files(results[0]):
        done = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0
    said = subprocess.run(["dsrdump", str(results[0] / "report.dcm")], capture_output=True, text=True, check=False)
    assert "Anomaly score" in said.stdout


def test_derived_images_point_at_their_source_slices(results: Any) -> None:
    out, source, data = results
    for number, path in enumerate(sorted((out / "pseudo_healthy").iterdir()), start=1):
        ds = pydicom.dcmread(path)
        origin = source.images[number]
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == origin.SOPInstanceUID
        assert ds.ImagePositionPatient == origin.ImagePositionPatient
        assert ds.ImageType[:2] == ["DERIVED", "SECONDARY"]
        np.testing.assert_array_equal(ds.pixel_array, np.round(data["pseudo_healthy"][..., number].T))


def test_stored_values_lead_back_to_real_ones() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(-50, 3000, (4, 30, 30)).astype(np.float32)
    cases = {
        "integers": (whole, Dataset(), 0.0),
        "rescaled": (whole * 0.25 + 3, header(RescaleSlope=0.25, RescaleIntercept=3), 1e-6),
        "floats": (rng.random((4, 30, 30)).astype(np.float32), Dataset(), 1 / 65535),
        "constant": (np.full((1, 2, 2), 0.5, np.float32), Dataset(), 1e-6),
    }
    for name, (values, source, tolerance) in cases.items():
        stored, slope, intercept = stored_values(values, source)
        assert stored.dtype.itemsize == 2, name
        np.testing.assert_allclose(stored * slope + intercept, values, atol=tolerance, err_msg=name)


def test_a_source_without_its_studys_identifiers_is_refused(tmp_path: Path) -> None:
    images = slices(voxels(), "axial", SPACING)
    for image in images:
        del image.FrameOfReferenceUID
    source = read_source(save(images, tmp_path / "source"))
    with pytest.raises(PhanesInputError, match="lacks the identifiers of its study"):
        write_dicom_results(source, arrays(source), FINDINGS, tmp_path / "dicom")


def test_missing_optional_attributes_are_no_obstacle(tmp_path: Path) -> None:
    images = slices(voxels(), "axial", SPACING)
    for image in images:
        for name in ("PatientBirthDate", "AccessionNumber", "StudyID", "ReferringPhysicianName", "SeriesNumber"):
            delattr(image, name)
    out, _, _ = written(tmp_path, images)
    assert len(all_files(out)) == 9


@pytest.mark.slow
def test_the_inference_run_writes_them_beside_the_niftis(scratch_bundle: Path, tmp_path: Path) -> None:
    """The whole way: a series is found, analysed and answered in DICOM; the same head as NIfTI gives the same map; a
    second run without the option removes the DICOM results."""
    volume, affine = small_template(4.0)
    grid = np.round(volume * 10).astype(int).transpose(2, 1, 0)[:, ::-1]  # slices upwards, rows to posterior
    corner = affine[:3, 3] + [0, affine[1, 1] * (volume.shape[1] - 1), 0]
    images = slices(
        grid[:, :, ::-1], "axial", (4.0, 4.0, 4.0), (-corner[0] - 4 * (volume.shape[0] - 1), -corner[1], corner[2])
    )
    save(images, tmp_path / "in" / "series")
    source = read_source(tmp_path / "in" / "series")
    nib.save(nib.Nifti1Image(source.array(), source.affine), tmp_path / "in" / "x.nii")
    options = {"slices": "mid", "label_threshold": 0.02}
    run_inference(scratch_bundle, tmp_path / "in", tmp_path / "out", dicom_output="true", **options)
    out = tmp_path / "out" / "series"
    label = nib.load(out / "series_label.nii.gz")
    segmentation = highdicom.seg.segread(out / "dicom" / "segmentation.dcm")
    back = segmentation.get_volume(combine_segments=True).match_geometry(source.geometry).array.transpose(2, 1, 0)
    expected = np.asarray(label.dataobj)
    assert expected.any()
    np.testing.assert_array_equal(back, expected)
    maps = [np.asarray(nib.load(tmp_path / f"out/{c}/{c}_anomaly.nii.gz").dataobj) for c in ("series", "x")]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-6 * maps[0].max())
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    told = {**run["settings"], "weights": run["weights_sha256"], "calibrated": run["calibrated"] or "unknown"}
    # DICOM says what run.json says.
    assert algorithm.AlgorithmParameters == ",".join(f"{name}={value}" for name, value in told.items())
    libraries = [f"{name} {version}" for name, version in run["versions"].items() if name != "PHANES"]
    assert segmentation.SoftwareVersions[:-1] == [run["versions"]["PHANES"], *libraries]
    picture = pydicom.dcmread(out / "dicom" / "picture_1.dcm")
    assert picture.PhotometricInterpretation == "RGB"
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert "no DICOM results: the source is not DICOM" in next(row for row in rows if row.startswith("x,"))
    assert "yes" in (tmp_path / "out" / "series.csv").read_text().splitlines()[1]
    run_inference(scratch_bundle, tmp_path / "in", tmp_path / "out", dicom_output="false", **options)
    assert not (out / "dicom").exists()
    assert (out / "series_label.nii.gz").exists()


def test_yes_and_no_are_words_on_the_command_line() -> None:
    assert [as_bool("x", v) for v in ("true", "False", True, 0, "1", "no")] == [True, False, True, False, True, False]
    with pytest.raises(PhanesInputError, match="save_mask is 'maybe': give true or false"):
        as_bool("save_mask", "maybe")


def test_series_numbers_are_consecutive(results: Any) -> None:
    numbers = sorted({int(pydicom.dcmread(path).SeriesNumber) for path in all_files(results[0])})
    assert numbers[0] == 4001
    assert all(b == a + 1 for a, b in pairwise(numbers))


@pytest.mark.real_data
@pytest.mark.slow
def test_a_real_series_gets_its_results_at_its_place(data_root: Path, tmp_path: Path) -> None:
    """A sagittal MPRAGE of 192 slices, oblique in the scanner, with a label painted through some of them."""
    with tarfile.open(data_root / "dicom" / "head_t1w_mprage.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "head_t1w_mprage"
    (case,) = find_cases(tmp_path, SeriesSelection(BUNDLE / "configs" / "dicom_series.json"))
    source = read_source(case["files"])
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    other = SimpleITK.ReadImage(files)
    point = other.TransformIndexToPhysicalPoint((100, 120, 90))
    voxel = apply_affine(np.linalg.inv(source.affine), np.array(point) * LPS)
    np.testing.assert_allclose(voxel, np.round(voxel), atol=1e-3)
    assert source.array()[tuple(np.round(voxel).astype(int))] == other[100, 120, 90]

    data = arrays(source)
    data["label"][...] = 0
    data["label"][100:120, 80:95, 88:92] = 1
    data["analysed"][...] = 0
    data["analysed"][..., 86:96] = 1
    written = write_dicom_results(case["files"], data, ONE, tmp_path / "dicom", software=SOFTWARE)
    assert len(written) == 3 + 10
    segmentation = SimpleITK.ReadImage(str(tmp_path / "dicom" / "segmentation.dcm"))
    back = SimpleITK.Resample(segmentation, other, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
    label = SimpleITK.GetImageFromArray(np.zeros(other.GetSize()[::-1], np.uint8))
    label.CopyInformation(other)
    for i, j, k in np.argwhere(data["label"]):
        at = apply_affine(source.affine, (i, j, k)) * LPS
        label[label.TransformPhysicalPointToIndex(tuple(float(v) for v in at))] = 1
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(back) > 0, SimpleITK.GetArrayFromImage(label) > 0)
    check_with_dicom3tools(written, folder)
