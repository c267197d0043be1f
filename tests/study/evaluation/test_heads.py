"""The evaluation of whole heads from the sets to the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, CopyItemsd, EnsureChannelFirstd, Orientationd

from scripts.common.errors import PhanesInputError
from scripts.pipeline.postprocessing import NativeImagesd, SplitMapsd
from scripts.pipeline.readers import CaseLoadImaged
from scripts.pipeline.transforms import LevelsOfHeadd, NormalizeHeadd, WithHeightsd
from scripts.space import alignment
from scripts.space.levels import GRID
from scripts.study.evaluation import heads_registrations
from scripts.study.evaluation.heads import HeadEvaluation, analysed
from scripts.study.evaluation.heads_data import HealthyHeads, LesionHeads, PaintedHeads
from scripts.study.evaluation.heads_registrations import HeadNotAnalysed, Registrations
from scripts.study.evaluation.heads_systems import (
    ConstantHeads,
    GroundTruthHeads,
    HeadMaps,
    HeadsWithout,
    HeadSystem,
    LevelSystem,
    MapsOfAnotherTool,
    PerfectHeads,
    ZScoreHeads,
)
from scripts.training.prepared import write_prepared

from ...synthetic_heads import found_at_once, write_heads, write_shapes


class Darkness(LevelSystem):
    """Dark voxels of the levels; counts how often it is asked."""

    calls = 0

    def __init__(self, registrations):
        super().__init__("darkness", registrations)

    def levels_map(self, levels):
        type(self).calls += 1
        assert levels.shape == GRID
        return (1.0 - levels).clip(min=0.0)

    def fingerprint(self):
        return "darkness"


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """No search for registrations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "register", found_at_once)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, _registered):
    """Sets of four heads, an operating point from two others."""
    root = tmp_path_factory.mktemp("heads")
    heads = write_heads(root / "test", 4)
    registrations = Registrations(root / "registrations")
    (root / "ages.csv").write_text("subject,age_years,sex\nhead0,34.5,F\nhead1,,M\nhead2,67.0,F\n")
    painted = PaintedHeads("strokes", heads, write_shapes(root / "shapes"), registrations, root / "painted", seeds=2)
    healthy = HealthyHeads("healthy", heads, registrations, root / "ages.csv")
    calibration = HealthyHeads("calibration", write_heads(root / "val", 2), registrations)
    return root, registrations, painted, healthy, calibration


def evaluation(made, out: Path, systems, **options) -> HeadEvaluation:
    _, _, painted, healthy, calibration = made
    return HeadEvaluation("Heads", [painted, healthy], calibration, systems, out, resamples=50, **options)


def test_every_system_has_its_rows_and_a_second_run_reads_them(made, tmp_path):
    systems = {"darkness": Darkness(made[1]), "constant": ConstantHeads(), "perfect": PerfectHeads()}
    cells = {(c.set, c.system, c.measure): c for c in evaluation(made, tmp_path, systems).run()}
    calls = Darkness.calls
    assert calls == 2 + 2 * 4 + 4
    perfect = cells["strokes", "perfect", "own.auprc"].value
    assert perfect > 0.999
    assert cells["strokes", "perfect", "label.dice"].value > 0.999
    assert cells["strokes", "constant", "own.auprc"].value < 0.1
    assert 0.3 < cells["strokes", "darkness", "own.auprc"].value < perfect
    assert cells["strokes", "darkness", "own.auprc"].seeds == 2
    assert cells["healthy", "perfect", "healthy.false_findings"].value == 0.0
    assert cells["healthy", "constant", "healthy.labelled_share"].value == 0.0
    text = (tmp_path / "table.md").read_text()
    assert "30 to 39 years (heads)" in text
    assert "60 to 69 years (heads)" in text
    assert "Share of the lesions found" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {row["set"] for row in rows} == {"strokes", "healthy"}
    assert {row["metric"] for row in rows if row["map"] == "froc"} >= {"all at 0.5", "all at 1"}
    assert "p of every score" not in text  # one baseline alone has nothing to be compared with
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["results"]) == 3 * 3
    again = {(c.set, c.system, c.measure): c for c in evaluation(made, tmp_path, systems).run()}
    assert Darkness.calls == calls
    assert {key: cell.value for key, cell in again.items()} == {key: cell.value for key, cell in cells.items()}


def test_maps_of_another_tool_score_as_the_system_that_made_them(made, tmp_path):
    painted = made[2]
    system = Darkness(made[1])
    for seed in painted.seeds:
        for case in painted.cases(seed):
            folder = tmp_path / "maps" / case.group
            folder.mkdir(parents=True, exist_ok=True)
            affine = nib.load(case.image).affine
            nib.save(nib.Nifti1Image(system(case).anomaly, affine), folder / f"{case.name}.nii.gz")
    for case in made[4].cases():
        folder = tmp_path / "maps" / case.group / case.name  # as inference writes them
        folder.mkdir(parents=True)
        maps = nib.Nifti1Image(system(case).anomaly, nib.load(case.image).affine)
        nib.save(maps, folder / f"{case.name}_anomaly.nii.gz")
    systems = {"own": system, "theirs": MapsOfAnotherTool(tmp_path / "maps", "theirs")}
    cells = evaluation(made, tmp_path / "out", systems, chosen_sets="strokes").run()
    values = {(c.system, c.measure): c.value for c in cells}
    for measure in ("own.auprc", "label.dice", "mean.best_dice"):
        assert values["own", measure] == pytest.approx(values["theirs", measure], abs=1e-6)


def test_a_missing_map_costs_its_own_row_only(made, tmp_path):
    systems = {"constant": ConstantHeads(), "theirs": MapsOfAnotherTool(tmp_path / "nothing", "theirs")}
    with pytest.raises(PhanesInputError, match=r"1 of 2 systems.*No map of 'head0'"):
        evaluation(made, tmp_path, systems, chosen_sets="strokes").run()
    text = (tmp_path / "table.md").read_text()
    assert "constant map" in text
    assert "Left out: theirs" in text


def test_every_score_has_its_p(made, tmp_path):
    constant = ConstantHeads()
    constant.role = "baseline"
    systems = {"darkness": Darkness(made[1]), "constant": constant}
    cells = evaluation(made, tmp_path, systems, chosen_sets="strokes").run()
    section = (tmp_path / "table.md").read_text().split("p of every score against the best baseline in it:")[1]
    row = next(line for line in section.splitlines() if line.startswith("| constant map"))
    p_values = [cell.p_value for cell in cells if cell.system == "constant" and cell.measure == "own.auprc"]
    assert row.split("|")[2].strip() == f"{p_values[0]:.2g}"
    assert "darkness" not in section.split("By size")[0]  # the best baseline of every column


def test_a_map_with_holes_is_refused_by_name(made, tmp_path):
    class Broken(HeadSystem):
        def __call__(self, case):
            return HeadMaps(np.full(case.brain.shape, np.nan, dtype=np.float32))

        def fingerprint(self):
            return "broken"

    with pytest.raises(PhanesInputError, match=r"'head0' by broken cannot be scored.*NaN"):
        evaluation(made, tmp_path, {"broken": Broken("broken")}).run()


def test_unknown_names_are_refused(made, tmp_path):
    with pytest.raises(PhanesInputError, match="systems is"):
        evaluation(made, tmp_path, {"constant": ConstantHeads()}, chosen="phanes").run()
    with pytest.raises(PhanesInputError, match="sets is"):
        evaluation(made, tmp_path, {"constant": ConstantHeads()}, chosen_sets="gliomas").run()


def test_a_painted_head_is_stored_as_its_source_was(made):
    root, _, painted, _, _ = made
    case = next(painted.cases(0))
    stored, source = nib.load(case.image), nib.load(root / "test" / case.image.name)
    assert stored.get_data_dtype() == source.get_data_dtype()
    np.testing.assert_array_equal(stored.affine, source.affine)
    changed = np.asarray(stored.dataobj) != np.asarray(source.dataobj)
    assert changed[case.truth].mean() > 0.9
    assert changed.sum() < 300  # with its soft edge


def test_z_score_is_that_of_the_prepared_heads(made, tmp_path):
    rng = np.random.default_rng(0)
    heads = [rng.uniform(0.5, 1.5, GRID).round(2) for _ in range(3)]
    for index, head in enumerate(heads):
        write_prepared(tmp_path / f"{index}.nii.gz", head)
    system = ZScoreHeads(tmp_path, made[1])
    levels = rng.uniform(0.0, 3.0, GRID).astype(np.float32)
    stack = np.stack(heads)
    expected = np.abs(levels.clip(0, 2) - stack.mean(0)) / (stack.std(0) + 0.05)
    np.testing.assert_allclose(system.levels_map(levels), expected, atol=1e-4)
    with pytest.raises(PhanesInputError, match="No heads"):
        ZScoreHeads(tmp_path / "nothing", made[1]).levels_map(levels)


def test_lesion_heads_are_pairs_of_a_split(made, tmp_path):
    source = made[0] / "test"
    for name in ("a", "b"):
        (tmp_path / f"{name}_t1w.nii.gz").write_bytes((source / "head0.nii.gz").read_bytes())
        head = nib.load(source / "head0.nii.gz")
        mask = np.zeros(head.shape, np.uint8)
        mask[20:24, 20:24, 20:24] = 1
        nib.save(nib.Nifti1Image(mask, head.affine), tmp_path / f"{name}_mask.nii.gz")
    (tmp_path / "split.csv").write_text("patient,split\na,val\nb,test\n")
    options = ("gliomas", tmp_path, "_t1w.nii.gz", "_mask.nii.gz", made[1])
    assert [case.name for case in LesionHeads(*options).cases()] == ["a", "b"]
    chosen = list(LesionHeads(*options, tmp_path / "split.csv", "test").cases())
    assert [case.name for case in chosen] == ["b"]
    assert chosen[0].truth.sum() == 64
    with pytest.raises(PhanesInputError, match="no patient of split 'train'"):
        LesionHeads(*options, tmp_path / "split.csv", "train").files()
    (tmp_path / "a_mask.nii.gz").unlink()
    with pytest.raises(PhanesInputError, match=r"no mask 'a_mask.nii.gz'"):
        list(LesionHeads(*options).cases())


def test_a_head_is_registered_once_and_again_by_another_code(tmp_path, monkeypatch):
    calls = []

    def counted(volume, affine):
        calls.append(1)
        return found_at_once(volume, affine)

    monkeypatch.setattr(alignment, "register", counted)
    head = write_heads(tmp_path / "in", 1) / "head0.nii.gz"
    for _ in range(2):
        Registrations(tmp_path / "registrations")(head)
    assert len(calls) == 1
    monkeypatch.setattr(heads_registrations, "code_checksum", lambda package, rooms: "f" * 64)
    Registrations(tmp_path / "registrations")(head)
    assert len(calls) == 2


def test_a_head_that_is_not_registered_counts_as_analysed_without_a_finding(made, tmp_path, monkeypatch):
    def refused(volume, affine):
        found = found_at_once(volume, affine)
        return type(found)(found.matrix, 0.1, found.scales, found.rotation)

    monkeypatch.setattr(alignment, "register", refused)
    monkeypatch.setattr(heads_registrations, "register", refused)
    registrations = Registrations(tmp_path / "registrations")
    folder = write_heads(tmp_path / "in", 1)
    (folder / "head0.nii.gz").rename(folder / "stranger.nii.gz")
    case = next(HealthyHeads("healthy", folder, registrations).cases())
    assert case.brain.any()  # it is scored all the same
    with pytest.raises(HeadNotAnalysed, match=r"stranger.*0.10"):
        Darkness(registrations)(case)
    done = analysed(Darkness(registrations), HealthyHeads("healthy", folder, registrations), None)
    assert done.refused == ["stranger"]
    assert not done.heads[0].anomaly.any()


class TwoStages(torch.nn.Module):
    """A network whose stages can be told apart."""

    network = None

    def contrast(self, image):
        return None

    def coarse(self, image, contrast):
        return image[:, :1], 1.0 - image[:, :1]

    def forward_with_mask(self, image, mask):
        return 3.0 * mask, image[:, :1]


@pytest.fixture
def levels_only(made):
    """Arguments of a `BundleSystem`: the levels of a head in, the map back on its voxels."""
    before = Compose(
        [
            CaseLoadImaged("image"),
            EnsureChannelFirstd("image"),
            CopyItemsd("image", names="source"),
            Orientationd("image", axcodes="PRS", labels=None),
            alignment.AlignHeadd("image"),
            LevelsOfHeadd("image"),
            NormalizeHeadd("image"),
            WithHeightsd("image"),
        ]
    )

    def after(data):
        data = NativeImagesd()(SplitMapsd("pred")(data))
        return {**data, "pred": torch.zeros_like(data["anomaly"])}

    return {
        "preprocessing": before,
        "network": TwoStages(),
        "inferer": lambda inputs, network: 1 / 0,
        "postprocessing": after,
        "registrations": made[1],
        "own_label": False,
    }


def test_the_oracle_is_given_the_lesion_where_the_network_sees_it(made, levels_only):
    case = list(made[2].cases(0))[2]  # the largest lesion
    found = GroundTruthHeads(**levels_only)(case)
    assert found.label is None
    labelled = found.anomaly > 1.5
    assert 2 * (labelled & case.truth).sum() / (labelled.sum() + case.truth.sum()) > 0.75
    healthy = next(made[3].cases())
    assert not GroundTruthHeads(**levels_only)(healthy).anomaly.any()


def test_the_coarse_stage_has_a_row_of_its_own(made, levels_only):
    case = list(made[2].cases(0))[2]
    anomaly = HeadsWithout(["second stage"], **levels_only)(case).anomaly
    assert anomaly[case.truth].mean() > anomaly[case.brain & ~case.truth].mean() + 0.1
