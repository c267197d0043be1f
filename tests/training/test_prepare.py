"""From raw heads to training data: what is written, what is refused, what is done again."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.pipeline.readers import CaseLoadImaged
from scripts.pipeline.transforms import LevelsOfHeadd, NormalizeHeadd
from scripts.space import alignment
from scripts.space.geometry import LEVEL_MM
from scripts.space.levels import LEVEL_BRIGHTNESS, LEVELS_MM, brain_of_levels, level_affine
from scripts.space.resampling import onto_levels
from scripts.training import contact_sheet
from scripts.training.prepare import prepare
from scripts.training.prepared import BRAIN_VALUE, heights_of, read_prepared, write_prepared

from ..conftest import REPOSITORY
from ..synthetic_heads import PLACE, found_at_once, head_affine, head_image, write_heads


@pytest.fixture
def registered(monkeypatch):
    """Registrations without a search; a list of the heads that were registered."""
    asked = []

    def register(volume, affine):
        asked.append(volume.shape)
        return found_at_once(volume, affine)

    monkeypatch.setattr(alignment, "register", register)
    return asked


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "prepare.csv").open(newline="") as file:
        return {f"{row['split']}/{row['subject']}": row for row in csv.DictReader(file)}


def test_heads_become_levels_with_a_table_and_a_sheet(tmp_path, registered, capsys):
    write_heads(tmp_path / "in/train", 2)
    write_heads(tmp_path / "in/val", 1)
    (tmp_path / "in/val/head0.nii.gz").unlink()
    nib.save(head_image(7), tmp_path / "in/val/head7.nii.gz")
    (tmp_path / "in/notes.txt").write_text("x")
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert "notes.txt" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert set(rows) == {"train/head0", "train/head1", "val/head7"}
    row = rows["train/head0"]
    assert (row["status"], row["similarity"], row["scanned_percent"]) == ("prepared", "0.900", "100.0")
    assert row["scales"] == "0.900 0.900 0.900"
    levels = read_prepared(tmp_path / "out/train/head0.nii.gz")
    assert np.median(levels[brain_of_levels()]) == pytest.approx(1.0, abs=0.5 / BRAIN_VALUE)
    raw = np.asarray(head_image(0).dataobj, dtype=np.float32)
    expected = onto_levels(raw, np.linalg.inv(PLACE) @ head_affine()) / float(row["brain_median"])
    assert np.abs(levels - expected.clip(0, 2.55)).max() < 0.02
    sheet = np.asarray(Image.open(tmp_path / "out/contact_sheet.png"))
    assert sheet.shape[1] == 3 * (3 * 128 + contact_sheet.GAP)


def test_a_head_is_trained_on_as_it_is_analysed(tmp_path, registered):
    write_heads(tmp_path / "in", 1)
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    inference = Compose(
        [
            CaseLoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="PRS", labels=None),
            alignment.AlignHeadd("image"),
            LevelsOfHeadd("image"),
            NormalizeHeadd("image"),
        ]
    )
    seen = inference({"image": str(tmp_path / "in/head0.nii.gz")})["image"]
    power = seen.meta["intensity_power"]  # the contrast is brought to the mean training head's
    prepared = read_prepared(tmp_path / "out/train/head0.nii.gz")
    low, high = (
        (0.5 * (prepared + by).clip(0) ** power).clip(0, 1) for by in (-0.51 / BRAIN_VALUE, 0.51 / BRAIN_VALUE)
    )
    known = prepared < 2.5  # what is brighter was cut off
    seen = seen[0].numpy()
    assert (low <= seen)[known].all()
    assert (seen <= high)[known].all()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL"])
def test_the_storage_order_of_a_head_does_not_matter(tmp_path, registered, axes):
    head = head_image()
    flips = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(head.affine), nib.orientations.axcodes2ornt(axes)
    )
    (tmp_path / "in").mkdir()
    nib.save(head, tmp_path / "in/a.nii.gz")
    nib.save(head.as_reoriented(flips), tmp_path / "in/b.nii")
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    a, b = (read_prepared(tmp_path / f"out/train/{name}.nii.gz") for name in "ab")
    assert np.abs(a - b).max() <= 1.01 / BRAIN_VALUE


def test_a_second_run_does_only_what_is_new_changed_or_gone(tmp_path, registered):
    heads, out = write_heads(tmp_path / "in", 3), tmp_path / "out"
    prepare(str(heads), str(out), workers=1)
    assert len(registered) == 3
    prepare(str(heads), str(out), workers=1)
    assert len(registered) == 3
    (out / "train/head0.nii.gz").unlink()
    nib.save(head_image(20), heads / "head1.nii.gz")
    nib.save(head_image(21), heads / "head3.nii.gz")
    prepare(str(heads), str(out), workers=1)
    assert len(registered) == 6
    assert set(rows_of(out)) == {"train/head0", "train/head1", "train/head2", "train/head3"}
    # Another cohort goes into the same folder; the first one's rows stay.
    (tmp_path / "more").mkdir()
    nib.save(head_image(30), tmp_path / "more/other.nii.gz")
    prepare(str(tmp_path / "more"), str(out), workers=1)
    assert len(registered) == 7
    assert set(rows_of(out)) == {"train/head0", "train/head1", "train/head2", "train/head3", "train/other"}


def test_heads_that_fail_are_named_and_the_others_are_kept(tmp_path, registered, phantom):
    heads, out = write_heads(tmp_path / "in", 1), tmp_path / "out"
    (heads / "broken.nii.gz").write_bytes(b"no image")
    Image.fromarray(np.zeros_like(phantom)).save(heads / "slice.png")
    whole = head_image(3)
    nib.save(whole.slicer[:, :, :], heads / "whole.nii.gz")
    nib.save(whole.slicer[:, 18:, :], heads / "cut.nii.gz")  # stored PSR: without its lower part
    blank = nib.Nifti1Image(np.zeros(whole.shape, np.int16), whole.affine)
    nib.save(blank, heads / "blank.nii.gz")
    (heads / "copy.nii.gz").write_bytes((heads / "head0.nii.gz").read_bytes())
    with pytest.raises(PhanesInputError, match=r"5 of 7 heads failed and are left out"):
        prepare(str(heads), str(out), workers=1)
    rows = rows_of(out)
    assert {key for key, row in rows.items() if row["status"] == "prepared"} == {"train/copy", "train/whole"}
    reasons = {
        "train/broken": "broken.nii.gz",
        "train/slice": "blank",
        "train/cut": r"only 7\d % of the brain|only 8\d % of the brain",
        "train/blank": "blank",
        "train/head0": "same image as train/copy",
    }
    for key, reason in reasons.items():
        assert re.search(reason, rows[key]["error"]), rows[key]
        assert not (out / f"{key}.nii.gz").exists()
    assert "\n" not in "".join(row["error"] for row in rows.values())


def test_a_slice_is_stored_as_its_level(tmp_path, phantom):
    (tmp_path / "in").mkdir()
    Image.fromarray(phantom).save(tmp_path / "in/a.png")
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert heights_of(tmp_path / "out/train/a.nii.gz") == (LEVEL_MM,)
    levels = read_prepared(tmp_path / "out/train/a.nii.gz", [LEVEL_MM])
    share = LEVEL_BRIGHTNESS[LEVELS_MM.index(LEVEL_MM)]  # what the level's brain has of the whole brain's brightness
    assert np.median(levels[brain_of_levels([LEVEL_MM])]) == pytest.approx(share, abs=1 / BRAIN_VALUE)


def test_a_head_that_cannot_be_registered_is_left_out(tmp_path, monkeypatch):
    heads = write_heads(tmp_path / "in", 1)
    poor = found_at_once(np.zeros(1), np.eye(4))
    monkeypatch.setattr(alignment, "register", lambda volume, affine: type(poor)(PLACE, 0.1, (0.9, 0.9, 0.9), 0.0))
    with pytest.raises(PhanesInputError, match=r"head0.*similarity to the template 0.10"):
        prepare(str(heads), str(tmp_path / "out"), workers=1)
    assert not (tmp_path / "out/train/head0.nii.gz").exists()


def test_a_folder_without_heads_and_a_strange_table_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(PhanesInputError, match="No images found"):
        prepare(str(tmp_path / "in"), str(tmp_path / "out"))
    write_heads(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/prepare.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PhanesInputError, match="not a table of prepare"):
        prepare(str(tmp_path / "in"), str(tmp_path / "out"))


def test_more_heads_than_a_sheet_holds_go_onto_several(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "ROWS", 1)
    write_prepared(tmp_path / "a.nii.gz", brain_of_levels().astype(float))
    names = contact_sheet.write_contact_sheets(tmp_path, [(tmp_path / "a.nii.gz", "a")] * 9)
    assert names == ["contact_sheet.png", "contact_sheet_2.png", "contact_sheet_3.png"]
    widths = [Image.open(tmp_path / name).width for name in names]
    assert widths[0] == widths[1] == 4 * widths[2]
    # A brain that is the template's own lies within the outline that is drawn.
    tile = np.asarray(Image.open(tmp_path / names[2]))[:128, :384]
    red = (tile == contact_sheet.OUTLINE).all(axis=-1)
    grey = (tile == int(255 / contact_sheet.WHITE)).all(axis=-1)
    assert red.sum() > 500
    assert grey.sum() > 10_000


@pytest.mark.slow
@pytest.mark.real_data
def test_real_heads_by_several_workers(tmp_path, data_root):
    heads = tmp_path / "in"
    heads.mkdir()
    for name in ("IXI014", "IXI255"):
        (heads / f"{name}.nii.gz").write_bytes((data_root / f"ixi_heads/val/{name}.nii.gz").read_bytes())
    command = [sys.executable, "-m", "scripts", "prepare", "--heads", str(heads), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--workers", "2"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out")
    assert all(float(row["similarity"]) > 0.5 and row["warnings"] == "" for row in rows.values())
    image = nib.load(tmp_path / "out/train/IXI014.nii.gz")
    np.testing.assert_allclose(image.affine, level_affine(), atol=1e-4)
    assert image.shape == (128, 128, len(LEVELS_MM))


def test_heads_that_are_not_split_are_all_for_training(tmp_path, registered):
    """Training reads DATA/train: the first two commands of the README go together."""
    write_heads(tmp_path / "heads", 1)
    prepare(str(tmp_path / "heads"), str(tmp_path / "out"), workers=1)
    assert (tmp_path / "out/train/head0.nii.gz").is_file()
    assert set(rows_of(tmp_path / "out")) == {"train/head0"}
