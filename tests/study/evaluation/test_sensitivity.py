"""The sensitivity table: one thing changed at a time, and heads sorted by what was painted there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.__main__ import Commands
from scripts.space.levels import LEVELS_MM, brain_of_levels
from scripts.study.evaluation import sensitivity as study
from scripts.study.evaluation.heads_painting import FIXED, Painting
from scripts.study.evaluation.heads_scoring import LesionScores
from scripts.study.evaluation.stages import PaintedHead, made_up_shapes, painted_heads
from scripts.training.prepared import write_prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three heads, one for each range of size, to paint into, and two for the z-score."""
    root, brain, rng = tmp_path_factory.mktemp("prepared"), brain_of_levels(), np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 3)):
        (root / split).mkdir()
        for number in range(count):
            write_prepared(root / split / f"head{number}.nii.gz", brain * rng.normal(1.0, 0.05, brain.shape))
    return root


def painted(prepared: Path, seed: int = 0, painting: Painting = FIXED) -> list[PaintedHead]:
    return painted_heads(sorted((prepared / "val").iterdir()), made_up_shapes(0), seed, painting)


def test_each_variant_changes_one_thing_alone():
    assert next(iter(study.VARIANTS.values())) == FIXED
    for painting in list(study.VARIANTS.values())[1:]:
        assert sum(value != vars(FIXED)[name] for name, value in vars(painting).items()) == 1


def test_a_faint_painting_is_faint_and_lies_where_the_fixed_one_does(prepared):
    for fixed, faint in zip(painted(prepared), painted(prepared, 0, Painting(depth=(0.9, 0.9))), strict=True):
        assert torch.equal(fixed.lesion, faint.lesion)
        for head, low, high in ((fixed, 0.3, 0.75), (faint, 0.85, 0.95)):
            assert low < np.median(head.levels[head.lesion[0, 0].numpy()]) < high


def test_strata_say_what_was_painted(prepared):
    for seed in (0, 1):
        for head in painted(prepared, seed):
            size, contrast, height = study.strata(head)
            volume = head.lesion.sum().item() * 8 / 1000
            low, high = (float(end) for end in size.name.removesuffix(" ml").split(" to "))
            assert 0.8 * low < volume < 1.2 * high
            low, high = (float(end) for end in contrast.name.removeprefix("d ").split(" to "))
            assert low <= head.recipe.darkness <= high
            low, high = (float(end) for end in height.name.removeprefix("z ").removesuffix(" mm").split(" to "))
            assert low <= LEVELS_MM[round(head.lesion[0, 0].nonzero()[:, 2].double().mean().item())] <= high


def test_rows_of_strata_are_means_of_their_heads(prepared):
    heads = painted(prepared) + painted(prepared, 1)
    found = study.scored({"darkness": lambda head: 2.0 - head.levels.clip(0, 2)}, heads, "")
    rows = study.by_stratum(heads, found)
    counts = [int(row[0].split("(")[1][:-1]) for row in rows]
    assert counts[:3] == [2, 2, 2]  # each head gets another size with the next seed
    assert sum(counts) == 3 * len(heads)
    each = LesionScores(found["darkness"], None).each["auprc"]
    small = [index for index, head in enumerate(heads) if head.recipe.size == 0]
    assert rows[0][1].startswith(f"{100 * each[small].mean():.2f} ± ")
    assert each.min() > 0.3


@pytest.mark.slow
def test_one_command_writes_the_page(prepared, linear_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "VARIANTS", {"the fixed model": FIXED, "faint": Painting(depth=(0.9, 0.95))})
    out = tmp_path / "page.md"
    Commands.sensitivity(str(prepared), str(linear_bundle), shapes_dir="", seeds=1, out=str(out))
    lines = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == ["Painting", "PHANES", "PHANES, linear", "z-score"]
    fixed, faint = (line for line in lines if line[0] in ("the fixed model", "faint"))
    assert float(fixed[3].split()[0]) > float(faint[3].split()[0])
    assert len(lines) == 2 + 2 + 2 + len(study.by_stratum(painted(prepared), {}))
