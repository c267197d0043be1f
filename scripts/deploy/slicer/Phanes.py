"""PHANES in 3D Slicer: runs the installed `phanes` command on a loaded volume, and loads back what it found.

It is one file and needs no server. Add its folder in Slicer under Edit, Application Settings, Modules, Additional
module paths. `phanes` is installed outside of Slicer, by `pip install` into an environment of its own. The module has
one setting, the path of that command.
"""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

SETTING = "Phanes/Command"
CASE = "head"  # name of the file that the command gets, and so of its results
# RGB, in turn: seven that readers of every colour vision tell apart (Okabe and Ito), as in the DICOM segmentation.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


class Phanes(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = "PHANES"
        parent.categories = ["Segmentation"]
        parent.contributors = ["PHANES contributors"]
        parent.helpText = "Anomalies in T1w brain MRI, learnt from healthy brains. Research use only."


class PhanesWidget(ScriptedLoadableModuleWidget):
    """The module's panel: volume, command, Analyse, Report."""

    def setup(self) -> None:
        """Build the panel."""
        super().setup()
        self.logic, self.report = PhanesLogic(), None
        box = ctk.ctkCollapsibleButton()
        box.text = "Analyse a T1w head"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        form.addRow("Volume", self.volume)
        self.command = qt.QLineEdit()
        self.command.text = qt.QSettings().value(SETTING) or shutil.which("phanes") or "phanes"
        self.command.toolTip = "Where the installed command lies, e.g. /home/me/phanes/bin/phanes"
        form.addRow("Command", self.command)
        self.analyse = qt.QPushButton("Analyse")
        self.analyse.connect("clicked(bool)", self.on_analyse)
        form.addRow(self.analyse)
        self.open = qt.QPushButton("Open report")
        self.open.enabled = False
        self.open.connect("clicked(bool)", self.on_open)
        form.addRow(self.open)
        self.said = qt.QLabel("Research use only; not a medical device.")
        self.said.wordWrap = True
        form.addRow(self.said)
        self.layout.addStretch(1)

    def on_analyse(self, *_: Any) -> None:
        """Analyse the chosen volume. A mistake is one sentence in a window."""
        volume = self.volume.currentNode()
        if volume is None:
            slicer.util.errorDisplay("Choose a volume first.")
            return
        qt.QSettings().setValue(SETTING, self.command.text)
        self.analyse.enabled = False
        try:
            found = self.logic.analyse(volume, shlex.split(self.command.text), self.say)
        except RuntimeError as error:
            slicer.util.errorDisplay(str(error))
            self.say("Failed.")
            return
        finally:
            self.analyse.enabled = True
        self.report = found["report"]
        self.open.enabled = True
        self.say(f"{found['findings'].GetSegmentation().GetNumberOfSegments()} findings. Research use only.")

    def say(self, text: str) -> None:
        """Show a line while the command runs."""
        self.said.text = text
        slicer.app.processEvents()

    def on_open(self, *_: Any) -> None:
        """Open the report in the system's browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.report)))


class PhanesLogic(ScriptedLoadableModuleLogic):
    """Runs the command and loads its results; needs no panel."""

    def analyse(
        self, volume: Any, command: Sequence[str], say: Callable[[str], None] = lambda text: None
    ) -> dict[str, Any]:
        """Analyse a volume node.

        Args:
            volume: vtkMRMLScalarVolumeNode, a T1w head.
            command: the installed command, with options of its own if wanted.
            say: gets every line that the command prints.

        Returns:
            `anomaly`, `pseudo_healthy`: volume nodes; `findings`: the segmentation node, a segment a finding; `table`:
            the node of findings.csv; `report`: path of report.html.

        Raises:
            RuntimeError: the volume cannot be written, there is no such command, or it failed; one sentence.
        """
        folder = Path(slicer.util.tempDirectory("phanes"))
        head = folder / f"{CASE}.nii.gz"
        if not slicer.util.exportNode(volume, str(head)):
            raise RuntimeError(f"'{volume.GetName()}' cannot be written to {head}: free some space there.")
        out = folder / "results"
        self._run([*command, str(head), str(out)], say)
        return {**self._load(out / CASE, volume), "report": out / "report.html"}

    @staticmethod
    def _run(words: list[str], say: Callable[[str], None]) -> None:
        try:
            # Slicer's Python settings would mislead another Python. So it starts with those from before Slicer.
            process = slicer.util.launchConsoleProcess(words, useStartupEnvironment=True)
        except OSError as error:
            raise RuntimeError(
                f"'{words[0]}' cannot be started ({error.strerror}): install PHANES and give its command."
            ) from error
        lines = []
        for line in process.stdout:
            if text := line.strip():
                lines.append(text)
                say(text)
        if process.wait():
            raise RuntimeError(lines[-1] if lines else f"'{words[0]}' failed without a word: run it in a terminal.")

    @staticmethod
    def _load(folder: Path, volume: Any) -> dict[str, Any]:
        name = volume.GetName()

        def loaded(suffix: str, title: str) -> Any:
            return slicer.util.loadVolume(
                str(folder / f"{CASE}_{suffix}.nii.gz"), {"name": f"{name} {title}", "show": False}
            )

        anomaly, pseudo_healthy = loaded("anomaly", "anomaly map"), loaded("pseudo_healthy", "pseudo-healthy")
        display = anomaly.GetDisplayNode()
        inferno = slicer.mrmlScene.GetFirstNodeByName("Inferno")
        if inferno is not None:
            display.SetAndObserveColorNodeID(inferno.GetID())
        display.SetAutoThreshold(False)
        display.SetLowerThreshold(1e-6)  # zero is where there is nothing to show
        display.SetApplyThreshold(True)
        table = slicer.util.loadTable(str(folder / f"{CASE}_findings.csv"))
        table.SetName(f"{name} findings")
        findings = _segmentation(folder, name, volume)
        slicer.util.setSliceViewerLayers(background=volume, foreground=anomaly, foregroundOpacity=0.5)
        return {"anomaly": anomaly, "pseudo_healthy": pseudo_healthy, "findings": findings, "table": table}


def _segmentation(folder: Path, name: str, volume: Any) -> Any:
    """The numbered label as segments, named by number and structure."""
    label = slicer.util.loadLabelVolume(str(folder / f"{CASE}_label.nii.gz"), {"name": "label", "show": False})
    findings = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} findings")
    findings.CreateDefaultDisplayNodes()
    findings.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label, findings)
    slicer.mrmlScene.RemoveNode(label)
    with (folder / f"{CASE}_findings.csv").open(newline="", encoding="utf-8") as file:
        rows = {int(row["number"]): row for row in csv.DictReader(file)}
    segmentation = findings.GetSegmentation()
    last = segmentation.GetNumberOfSegments()
    for i in range(last):
        segment = segmentation.GetNthSegment(i)
        number = int(segment.GetLabelValue())
        structure = rows[number]["structures"].partition(";")[0]
        shared = number == last and len(rows) > last  # weaker findings share the last number
        title = f"Findings {number} to {len(rows)}" if shared else f"Finding {number}"
        segment.SetName(title if shared or not structure else f"{title}: {structure}")
        segment.SetColor(*(channel / 255 for channel in COLOURS[(number - 1) % len(COLOURS)]))
    return findings
