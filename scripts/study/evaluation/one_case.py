"""One case through the bundle's own inference, step by step and without files: for checks and for the clock."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser


class OneCase:
    """The parts of `inference.json`, on the CPU.

    Args:
        bundle_root: the bundle's folder.
        overrides: entries of the config.
    """

    def __init__(self, bundle_root: str = "bundle", **overrides: Any) -> None:
        parser = ConfigParser()
        parser.read_config(str(Path(bundle_root) / "configs" / "inference.json"))
        parser.update({"bundle_root": bundle_root, "device": "cpu", **overrides})
        self.network = parser.get_parsed_content("network_def").eval()
        weights = torch.load(parser.get_parsed_content("weights_file"), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.before = parser.get_parsed_content("preprocessing").transforms
        self.inferer = parser.get_parsed_content("inferer")
        self.after = parser.get_parsed_content("postprocessing").transforms

    def __call__(self, path: str | Path) -> tuple[dict[str, Any], dict[str, float]]:
        """The post-processed images, and the seconds of each step in order."""
        data: dict[str, Any] = {"image": str(path)}
        seconds: dict[str, float] = {}
        for step in self.before:
            data = self._timed(seconds, type(step).__name__, step, data)
        with torch.inference_mode():
            found = self._timed(seconds, "networks", self.inferer, data["image"][None], self.network)
        data["pred"] = found[0]
        for step in self.after:
            data = self._timed(seconds, type(step).__name__, step, data)
        return data, seconds

    @staticmethod
    def _timed(seconds: dict[str, float], name: str, call: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result


def case_seconds(head: str, bundle_root: str = "bundle") -> None:
    """Print what each step of the analysis of one head takes, and the largest memory of the process, as Markdown.

    Args:
        head: a NIfTI file, or a folder with a DICOM series.
        bundle_root: the bundle's folder.
    """
    data, seconds = OneCase(bundle_root)(head)
    shape = " x ".join(str(n) for n in data["pred"].shape[1:])
    print(f"{Path(head).name}, {shape} voxels, alignment {data['image'].meta.get('alignment')}\n")
    print("| step | seconds |\n|---|---|")
    for name, value in seconds.items():
        if value >= 0.05:
            print(f"| {name} | {value:.1f} |")
    print(f"| all, without writing | {sum(seconds.values()):.1f} |\n")
    print(f"Largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GB.")
