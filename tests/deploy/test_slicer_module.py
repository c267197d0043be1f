"""The Slicer module with a stand-in for Slicer's API (Slicer itself cannot be had from an index), and the real command.

The stand-in keeps nodes as files and arrays; what it offers is what the module calls, by Slicer 5's documentation.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest

from scripts.dicom.segmentation import COLOURS
from tests.conftest import REPOSITORY
from tests.heads import small_template

FILE = REPOSITORY / "scripts/deploy/slicer/Phanes.py"


class Node:
    """A node of the scene: a name and a file, and any method of a display node."""

    def __init__(self, name: str, path: str = "") -> None:
        self.name, self.path, self.display = name, path, MagicMock()
        self.array = np.asarray(nib.load(path).dataobj) if path.endswith(".nii.gz") else None

    def GetName(self) -> str:
        return self.name

    def SetName(self, name: str) -> None:
        self.name = name

    def GetDisplayNode(self) -> Any:
        return self.display


class Segment:
    def __init__(self, value: int) -> None:
        self.value, self.name, self.colour = value, f"Segment_{value}", (0.0, 0.0, 0.0)

    def GetLabelValue(self) -> int:
        return self.value

    def SetName(self, name: str) -> None:
        self.name = name

    def SetColor(self, *colour: float) -> None:
        self.colour = colour


class Segmentation(Node):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.segments: list[Segment] = []
        self.reference: Node | None = None

    def CreateDefaultDisplayNodes(self) -> None: ...

    def SetReferenceImageGeometryParameterFromVolumeNode(self, volume: Node) -> None:
        self.reference = volume

    def GetSegmentation(self) -> Segmentation:
        return self

    def GetNumberOfSegments(self) -> int:
        return len(self.segments)

    def GetNthSegment(self, number: int) -> Segment:
        return self.segments[number]


class Slicer:
    """The functions of `slicer` and `slicer.util` that the module calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes, self.layers, self.errors = folder, [], {}, []  # type: ignore[var-annotated]
        self.mrmlScene = SimpleNamespace(
            GetFirstNodeByName=lambda name: SimpleNamespace(GetID=lambda: f"id of {name}"),
            AddNewNodeByClass=lambda kind, name: self.add(Segmentation(name)),
            RemoveNode=self.nodes.remove,
        )
        logic = SimpleNamespace(ImportLabelmapToSegmentationNode=self.imported)
        self.modules = SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logic))
        self.util = self

    def add(self, node: Any) -> Any:
        self.nodes.append(node)
        return node

    @staticmethod
    def imported(label: Node, segmentation: Segmentation) -> None:
        assert label.array is not None
        segmentation.segments = [Segment(int(value)) for value in np.unique(label.array) if value]

    def tempDirectory(self, key: str) -> str:
        folder = self.folder / key
        folder.mkdir()
        return str(folder)

    @staticmethod
    def exportNode(node: Node, path: str) -> bool:
        shutil.copyfile(node.path, path)
        return True

    @staticmethod
    def launchConsoleProcess(words: list[str], useStartupEnvironment: bool) -> Any:
        assert useStartupEnvironment
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY)

    def loadVolume(self, path: str, properties: dict[str, Any]) -> Node:
        return self.add(Node(properties["name"], path))

    loadLabelVolume = loadVolume

    def loadTable(self, path: str) -> Node:
        return self.add(Node("table", path))

    def setSliceViewerLayers(self, **layers: Any) -> None:
        self.layers = layers

    def errorDisplay(self, text: str) -> None:
        self.errors.append(text)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Slicer]:
    """The module as Slicer would import it, and the stand-in."""
    scene = Slicer(tmp_path)
    stand_in: Any = ModuleType("slicer")
    stand_in.__dict__.update({name: getattr(scene, name) for name in ("mrmlScene", "modules", "util")})
    stand_in.app = MagicMock()
    stand_in.qMRMLNodeComboBox = MagicMock
    loadable: Any = ModuleType("slicer.ScriptedLoadableModule")
    plain = {"__init__": lambda self, parent=None: None, "setup": lambda self: None}
    for name in ("ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleWidget"):
        setattr(loadable, name, type(name, (), plain))
    modules = {"slicer": stand_in, "slicer.ScriptedLoadableModule": loadable, "qt": MagicMock(), "ctk": MagicMock()}
    for name, one in modules.items():
        monkeypatch.setitem(sys.modules, name, one)
    spec = importlib.util.spec_from_file_location("Phanes", FILE)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made, scene


@pytest.fixture
def head(tmp_path: Path) -> Node:
    """A template's head with a dark spot in the white matter of the left side."""
    volume, affine = small_template(4.0)
    x, y, z = np.round(np.linalg.inv(affine)[:3] @ [-26, -20, 30, 1]).astype(int)
    volume[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4] *= 0.4
    nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), tmp_path / "t1.nii.gz")
    return Node("T1", str(tmp_path / "t1.nii.gz"))


@pytest.mark.slow
def test_the_installed_command_runs_on_the_volume_and_its_results_are_loaded(module: Any, head: Node) -> None:
    phanes, scene = module
    lines: list[str] = []
    found = phanes.PhanesLogic().analyse(head, [sys.executable, "-m", "phanes", "--label_threshold", "3"], lines.append)
    assert found["report"].is_file()
    assert any("1 case analysed" in line for line in lines)
    assert scene.layers["background"] is head
    assert scene.layers["foreground"] is found["anomaly"]
    assert [node.name for node in scene.nodes] == ["T1 anomaly map", "T1 pseudo-healthy", "T1 findings", "T1 findings"]
    assert found["anomaly"].array.shape == found["pseudo_healthy"].array.shape == head.array.shape
    found["anomaly"].display.SetAndObserveColorNodeID.assert_called_with("id of Inferno")
    assert found["table"].path.endswith("head_findings.csv")
    segments = found["findings"].segments
    assert found["findings"].reference is head
    assert [segment.value for segment in segments] == list(range(1, len(segments) + 1))
    assert segments[0].name.startswith("Finding 1: left cerebral white matter")
    assert segments[0].colour == tuple(channel / 255 for channel in COLOURS[0])


def test_more_findings_than_numbers_share_the_last(module: Any, tmp_path: Path, head: Node) -> None:
    phanes, _ = module
    label = np.zeros((20, 20, 20), np.uint8)
    label.flat[:20] = np.arange(1, 21)
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "head_label.nii.gz")
    rows = "".join(f"{n},left thalamus 90 %; left putamen 10 %\n" for n in range(1, 24))
    (tmp_path / "head_findings.csv").write_text(f"number,structures\n{rows}")
    names = [segment.name for segment in phanes._segmentation(tmp_path, "T1", head).segments]
    assert names[0] == "Finding 1: left thalamus 90 %"
    assert names[18:] == ["Finding 19: left thalamus 90 %", "Findings 20 to 23"]


def test_a_mistake_is_one_sentence_in_a_window(module: Any, head: Node) -> None:
    phanes, scene = module
    logic = phanes.PhanesLogic()
    with pytest.raises(RuntimeError, match=r"'no-such-command' cannot be started .*: install PHANES"):
        logic.analyse(head, ["no-such-command"])
    shutil.rmtree(scene.folder / "phanes")
    failing = [sys.executable, "-c", "import sys; print('first'); sys.exit('is no T1w head.')"]
    with pytest.raises(RuntimeError, match=r"^is no T1w head.$"):
        logic.analyse(head, failing)
    widget = phanes.PhanesWidget()
    widget.layout = MagicMock()
    widget.setup()
    widget.volume.currentNode.return_value = None
    widget.on_analyse()
    widget.volume.currentNode.return_value = head
    widget.command.text = "no-such-command"
    shutil.rmtree(scene.folder / "phanes")
    widget.on_analyse()
    assert scene.errors[0] == "Choose a volume first."
    assert "cannot be started" in scene.errors[1]
    assert widget.analyse.enabled


def test_the_module_keeps_the_colours_of_the_dicom_segmentation(module: Any) -> None:
    assert module[0].COLOURS == COLOURS
