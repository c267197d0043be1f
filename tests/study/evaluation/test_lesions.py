"""Images with expert masks: found as they are published, cut as the image is, and other tools' maps of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.space import alignment
from scripts.space.outline import GROWN_MM, HEIGHT_MM, LINK_MM
from scripts.study.evaluation.lesions import LesionBenchmark, find_pairs
from tests.conftest import BUNDLE, head_slice, ras_of_slice, save_nifti

MNI = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
LEVEL = 95  # z = +23 mm of the 197x233x189 grid


@pytest.fixture(scope="module")
def preprocessing() -> list:
    """The bundle's own list of transforms."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("inference.json", "paper.json")])
    parser["bundle_root"] = str(BUNDLE)
    return list(parser.get_parsed_content("preprocessing").transforms)


@pytest.fixture(autouse=True)
def nothing_to_register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phantoms are no heads: they lie where their headers say."""
    monkeypatch.setattr(alignment, "_registered", lambda volume, affine: (None, "it is a phantom"))


def lesion(shape: tuple[int, int] = (233, 197)) -> np.ndarray:
    """A square lesion, front left."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[60:90, 50:70] = 255
    return mask


def save_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def save_atlas(root: Path, subject: str, level: int = LEVEL) -> Path:
    """A subject as ATLAS v2.0 lays it out, lesion at one level of the MNI grid; the image's path."""
    folder = root / subject / "ses-1" / "anat"
    stem = f"{subject}_ses-1_space-MNI152NLin2009aSym"
    volume = np.zeros((197, 233, 189), dtype=np.uint8)
    volume[:, :, LEVEL - 10 : LEVEL + 11] = ras_of_slice(head_slice())
    mask = np.zeros(volume.shape, dtype=np.uint8)
    mask[:, :, level - 10 : level + 11] = ras_of_slice(lesion() // 255)
    save_nifti(folder / f"{stem}_label-L_desc-T1lesion_mask.nii.gz", mask, MNI)
    return save_nifti(folder / f"{stem}_T1w.nii.gz", volume, MNI)


def test_atlas_is_read_at_the_papers_level_and_close_to_the_png_of_that_slice(tmp_path, preprocessing):
    save_atlas(tmp_path / "atlas", "sub-r001s001")
    save_png(tmp_path / "png" / "head.png", head_slice())
    save_png(tmp_path / "png" / "head_mask.png", lesion())
    volume = LesionBenchmark(tmp_path / "atlas", preprocessing, "set").load("set", None)
    picture = LesionBenchmark(tmp_path / "png", preprocessing, "set").load("set", None)
    assert volume.subjects == ["sub-r001s001"]
    half = [LesionBenchmark(tmp_path / n, preprocessing, "set", lesion_cut=0.5) for n in ("atlas", "png")]
    assert (half[0].load("set", None).masks != half[1].load("set", None).masks).sum() <= 6
    # A volume's pixels are smoothed to the width of the level's, a slice's are not.
    difference = (volume.images - picture.images).abs()
    assert float(difference.mean()) < 0.02
    assert float(np.corrcoef(volume.images.flatten(), picture.images.flatten())[0, 1]) > 0.99


def test_any_touched_pixel_is_lesion_as_published_and_half_keeps_the_area(tmp_path, preprocessing):
    save_png(tmp_path / "head.png", head_slice())
    save_png(tmp_path / "head_mask.png", lesion())
    pixels = 30 * 20 * (128 / 233) ** 2
    touched = LesionBenchmark(tmp_path, preprocessing).load("", None).masks[0, 0]
    half = LesionBenchmark(tmp_path, preprocessing, lesion_cut=0.5).load("", None).masks[0, 0]
    assert half.sum().item() == pytest.approx(pixels, rel=0.07)
    assert touched.sum() > half.sum()
    rows, columns = np.argwhere(half.numpy()).T
    assert rows.mean() == pytest.approx(75 * 128 / 233 - 0.5, abs=0.6)
    assert columns.mean() == pytest.approx((60 + 18) * 128 / 233 - 0.5, abs=0.6)


def test_mask_and_image_are_cut_alike_in_a_native_scan(tmp_path, preprocessing):
    """Place and size follow the head, so the mask must follow the image."""
    y, x = np.mgrid[:260, :260]
    head = (y - 120.0) ** 2 / 100**2 + (x - 150.0) ** 2 / 80**2 < 1  # off the centre
    mask = np.zeros((260, 260), dtype=np.uint8)
    mask[80:150, 100:170] = 1
    affine = np.diag([0.9, 0.9, 3.0, 1.0])
    tissue = 1 + 0.02 * np.random.default_rng(0).standard_normal(head.shape)  # regions of one value were no scan
    save_nifti(tmp_path / "scan.nii.gz", ras_of_slice((100 * head + 60 * mask) * tissue).astype(np.int16), affine)
    save_nifti(tmp_path / "scan_mask.nii.gz", ras_of_slice(mask), affine)
    found = LesionBenchmark(tmp_path, preprocessing, lesion_cut=0.5).load("", None)
    bright = found.images > 0.92  # between head and lesion
    height = (2 * 100 * 0.9 - 2 * (LINK_MM - GROWN_MM)) / 0.9  # of the outline, in pixels
    # The outline gives the scale to begin with; the fit to the template moves it by a few per cent.
    assert found.masks.sum() == pytest.approx((70 * HEIGHT_MM / height * 128 / 233) ** 2, rel=0.1)
    assert (bright & found.masks).sum() / (bright | found.masks).sum() > 0.93


def test_slices_without_a_lesion_are_left_out(tmp_path, preprocessing):
    save_atlas(tmp_path, "sub-r001s001")
    save_atlas(tmp_path, "sub-r001s002", level=20)
    assert LesionBenchmark(tmp_path, preprocessing).load("", None).subjects == ["sub-r001s001"]
    with pytest.raises(PhanesInputError, match="shows a lesion"):
        LesionBenchmark(tmp_path / "sub-r001s002", preprocessing).load("", None)


def test_a_csv_names_pairs_cases_and_subjects(tmp_path):
    for name in ("one.png", "two.png", "a.png", "b.png"):
        save_png(tmp_path / "images" / name, lesion())
    table = tmp_path / "pairs.csv"
    table.write_text("image,mask,case,subject\nimages/one.png,images/a.png,first,s1\nimages/two.png,images/b.png,,\n")
    pairs = find_pairs(table)
    assert [(p.case, p.subject) for p in pairs] == [("first", "s1"), ("two", "two")]
    assert pairs[0].mask == tmp_path / "images" / "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\nno.png,no.png\n", "line 2: .*no.png' does not exist"),
        ("image,label\na.png,b.png\n", "line 2: give both columns"),
        ("image,mask\n", "No image with a lesion mask"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(tmp_path, text, message):
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(PhanesInputError, match=message):
        find_pairs(table)


def test_folders_without_pairs_and_clashing_names_are_refused(tmp_path):
    with pytest.raises(PhanesInputError, match="neither a folder nor a CSV"):
        find_pairs(tmp_path / "nowhere")
    save_png(tmp_path / "a" / "x.png", lesion())
    with pytest.raises(PhanesInputError, match="No image with a lesion mask"):
        find_pairs(tmp_path)
    for folder in ("a", "b"):
        save_png(tmp_path / folder / "x.png", lesion())
        save_png(tmp_path / folder / "x_mask.png", lesion())
    with pytest.raises(PhanesInputError, match=r"Two cases .* 'x'"):
        find_pairs(tmp_path)


def test_a_mask_on_another_grid_is_refused_by_name(tmp_path, preprocessing):
    save_png(tmp_path / "head.png", head_slice())
    save_png(tmp_path / "head_mask.png", lesion((200, 197)))
    with pytest.raises(PhanesInputError, match=r"head_mask.png' .* does not lie on the grid"):
        LesionBenchmark(tmp_path, preprocessing).load("", None)


def test_maps_of_other_tools_lie_where_the_masks_do(tmp_path, preprocessing):
    image = save_atlas(tmp_path / "data", "sub-r001s001")
    case = image.name.removesuffix(".nii.gz")
    benchmark = LesionBenchmark(tmp_path / "data", preprocessing)
    mask = nib.load(image.with_name(image.name.replace("_T1w", "_label-L_desc-T1lesion_mask"))).get_fdata()
    expected = benchmark.load("", None).masks

    save_nifti(tmp_path / "a" / f"{case}.nii.gz", (7 * mask).astype(np.float32), MNI)
    maps = benchmark.read_maps(tmp_path / "a", "", None)
    assert torch.equal(maps > 0, expected)
    assert maps.max() == pytest.approx(7.0, rel=1e-4)  # the map's own unit

    save_nifti(tmp_path / "b" / case / f"{case}_anomaly.nii.gz", mask.astype(np.float32), MNI)
    assert torch.equal(benchmark.read_maps(tmp_path / "b", "", None) > 0, expected)

    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / f"{case}.npy", expected[0, 0].numpy().astype(float))
    assert torch.equal(benchmark.read_maps(tmp_path / "c", "", None) > 0, expected)


def test_an_array_on_the_slices_own_grid_is_cut_like_the_slice(tmp_path, preprocessing):
    save_png(tmp_path / "data" / "head.png", head_slice())
    save_png(tmp_path / "data" / "head_mask.png", lesion())
    benchmark = LesionBenchmark(tmp_path / "data", preprocessing)
    np.save(tmp_path / "head.npy", lesion())
    assert torch.equal(benchmark.read_maps(tmp_path, "", None) > 0, benchmark.load("", None).masks)


def test_missing_and_misshapen_maps_are_refused_by_name(tmp_path, preprocessing):
    save_png(tmp_path / "data" / "head.png", head_slice())
    save_png(tmp_path / "data" / "head_mask.png", lesion())
    benchmark = LesionBenchmark(tmp_path / "data", preprocessing)
    benchmark.load("", None)
    with pytest.raises(PhanesInputError, match="No map of 'head'"):
        benchmark.read_maps(tmp_path, "", None)
    np.save(tmp_path / "head.npy", np.zeros((64, 64)))
    with pytest.raises(PhanesInputError, match=r"head.npy' has the shape \(64, 64\)"):
        benchmark.read_maps(tmp_path, "", None)


@pytest.mark.real_data
def test_real_tumours_are_found_with_their_masks(data_root, preprocessing):
    pairs = find_pairs(data_root / "tumours")
    assert len(pairs) == 45
    assert not any("_free" in pair.image.name for pair in pairs)
