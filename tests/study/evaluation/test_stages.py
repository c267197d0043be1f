"""The stages apart: what a perfect inpainter, a perfect mask and a network with known errors must give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from scripts.__main__ import Commands
from scripts.study.evaluation.benchmarks import LesionSet
from scripts.study.evaluation.shapes import PIXEL_MM
from scripts.study.evaluation.stages import measured, run_stages, worst_cases, worst_figure
from tests.conftest import head_slice

SIZE = 64


class Known(nn.Module):
    """PHANES by hand, for lesions of 0.9 in slices of 0.5.

    Its mask lies half on the first lesion and half beside it; its images are 0.1 (coarse), 0.05 (filling) and 0.02
    (inpainted) above the healthy value.
    """

    def coarse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(image, 0.6), image

    def mask(self, coarse_map: Tensor) -> Tensor:
        mask = torch.zeros_like(coarse_map)
        mask[:, :, 20:30, 10:30] = 1.0
        return mask

    def masked_input(self, image: Tensor, mask: Tensor, coarse: Tensor) -> Tensor:
        return torch.where(mask > 0, 0.55, image)

    def forward_with_mask(self, image: Tensor, mask: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        pseudo_healthy = torch.where(mask > 0, 0.52, image)
        return (pseudo_healthy - image).abs(), pseudo_healthy

    def forward(self, image: Tensor) -> Tensor:
        return torch.where(image > 0.7, 1.0, 0.0).expand(-1, 4, -1, -1)

    def saliency(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ones_like(a)


@pytest.fixture
def lesions() -> LesionSet:
    """Two slices of 0.5 with a lesion of 10 x 20 pixels; in the second one it lies where the mask is not."""
    clean = torch.full((2, 1, SIZE, SIZE), 0.5)
    masks = torch.zeros(clean.shape, dtype=torch.bool)
    masks[0, 0, 20:30, 20:40] = masks[1, 0, 40:50, 20:40] = True
    return LesionSet("by hand", 0, torch.where(masks, 0.9, clean), masks, ["near", "far"], ["a", "b"], clean)


def test_every_number_is_the_one_by_hand(lesions):
    rows = measured([lesions], [run_stages(Known(), lesions, grow=2)])  # type: ignore[arg-type]
    assert rows["lesion pixels covered by m, %"] == pytest.approx(25)
    assert rows["slices with no lesion pixel covered, %"] == pytest.approx(50)
    assert rows["share of m outside the lesions, %"] == pytest.approx(75)
    assert rows["area of m, mm² a slice"] == pytest.approx(200 * PIXEL_MM**2, rel=1e-6)
    assert rows["error in m: input"] == pytest.approx(0.25 * 40, rel=1e-5)
    assert rows["error in m: coarse"] == pytest.approx(10, rel=1e-5)
    assert rows["error in m: filling"] == pytest.approx(5, rel=1e-5)
    assert rows["error in m: pseudo-healthy"] == pytest.approx(2, rel=1e-4)
    assert rows["error in m and the lesion: input"] == pytest.approx(40, rel=1e-5)
    assert rows["AUPRC: coarse map, eq. (3)"] == pytest.approx(100)  # the image itself
    assert rows["AUPRC: own inpainter, true mask"] == pytest.approx(100)


def test_a_perfect_inpainter_finds_what_the_mask_covers_and_no_more(lesions):
    rows = measured([lesions], [run_stages(Known(), lesions, grow=2)])  # type: ignore[arg-type]
    prevalence = 400 / (2 * SIZE**2)
    # a quarter of the lesions ranked first, the other pixels all 0: average precision in closed form
    assert rows["AUPRC: perfect inpainter, own mask"] == pytest.approx(100 * (0.25 + 0.75 * prevalence), rel=1e-6)
    grown = 10 * 12 / 400  # two more columns of the first lesion
    expected = 100 * (grown + (1 - grown) * prevalence)
    assert rows["AUPRC: perfect inpainter, grown mask"] == pytest.approx(expected, rel=1e-6)
    # the own inpainter marks healthy pixels in m, too, below the lesion's: 100 found, then 300 false ones, then all
    assert rows["AUPRC: map of the first filling, eq. (4)"] == pytest.approx(100 * (0.25 + 0.75 * prevalence), rel=1e-6)
    assert rows["AUPRC: final map, with refinements"] == pytest.approx(100)


def test_numbers_are_averaged_over_seeds(lesions):
    found = run_stages(Known(), lesions, grow=0)  # type: ignore[arg-type]
    one, two = measured([lesions], [found]), measured([lesions, lesions], [found, found])
    assert one == pytest.approx(two)


def test_the_worst_cases_come_first(lesions):
    found = run_stages(Known(), lesions, grow=0)  # type: ignore[arg-type]
    cases = worst_cases([lesions], [found], 5)
    assert [index for _, _, index in cases] == [1, 0]
    assert cases[0][0] < 0.1 < cases[1][0]
    figure = worst_figure([lesions], [found], 1, threshold=0.1)
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [
        f"far\nseed 0, AP {100 * cases[0][0]:.1f}"
    ]


@pytest.mark.slow
def test_one_command_measures_and_draws(scratch_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "slices" / "val").mkdir(parents=True)
    for n in range(2):
        Image.fromarray(head_slice(n)).save(tmp_path / "slices" / "val" / f"s{n}.png")
    source = {"bundle_root": str(scratch_bundle), "dataset_dir": str(tmp_path / "slices"), "shapes_dir": ""}
    Commands.stages(out=str(tmp_path / "out"), sets="ellipses, stroke_small", worst=2, **source)
    text = (tmp_path / "out" / "stages.md").read_text()
    assert text in capsys.readouterr().out
    assert "| AUPRC: perfect inpainter, own mask |" in text
    for name in ("ellipses", "stroke_small"):
        assert Image.open(tmp_path / "out" / f"worst_{name}.png").size[0] > 200
