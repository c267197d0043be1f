"""What MONAI Label 0.8.5 and MONAI Deploy 4.0 do to a bundle, re-enacted without them: the stages, not their code.

Both read `configs/inference.json` and `configs/metadata.json` alone, build the parts of the config one by one, and run
them themselves; neither starts the bundle's evaluator.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigItem, ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged
from monai.utils import MetaKeys, SpaceKeys

from tests.conftest import REPOSITORY


def forget_scripts() -> dict[str, Any]:
    """Unload the bundle's code, as MONAI Label does between its stages; the modules that were loaded."""
    names = [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def another_program(folder: Path) -> Iterator[None]:
    """A program elsewhere: no `scripts` loaded, none importable. Afterwards all is as it was."""
    modules, path = forget_scripts(), list(sys.path)
    sys.path[:] = [entry for entry in path if entry not in ("", ".") and Path(entry).resolve() != REPOSITORY]
    try:
        with _inside(folder):
            yield
    finally:
        forget_scripts()
        sys.modules.update(modules)
        sys.path[:] = path


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class LabelHost:
    """MONAI Label's inference task for a bundle.

    Args:
        bundle: folder in the server's `model/`; the first output of metadata.json names the prediction.
        checkpoint: file in `models/` that the user picked in the panel.
    """

    def __init__(self, bundle: Path, checkpoint: str = "model.pt") -> None:
        self.bundle = bundle
        self.parser = ConfigParser()
        self.parser.read_config(str(bundle / "configs" / "inference.json"))
        self.parser.config["bundle_root"] = str(bundle)
        with self._stage():
            network = self.parser.get_parsed_content("network_def")
            self.options = dict(self.parser.get_parsed_content("displayable_configs"))
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        self.image = next(iter(metadata["network_data_format"]["inputs"]))
        self.pred, output = next(iter(metadata["network_data_format"]["outputs"].items()))
        self.labels = {
            name.lower(): int(k) for k, name in output["channel_def"].items() if name.lower() != "background"
        }
        # A copy, weights that need not fit, and whatever file the user picked.
        self.network = copy.deepcopy(network)
        state = torch.load(bundle / "models" / checkpoint, weights_only=True)
        self.network.load_state_dict(state.get("model", state), strict=False)
        self.network.eval()

    @contextmanager
    def _stage(self) -> Iterator[None]:
        """On the path for the time of one stage, with the code loaded afresh."""
        sys.path.insert(0, str(self.bundle))
        forget_scripts()
        try:
            yield
        finally:
            sys.path.remove(str(self.bundle))

    def infer(self, image: str, **options: Any) -> np.ndarray:
        """One request: the label (X, Y, Z) that the server would write, on the image's own grid."""
        request = {"device": ["cpu"], "model_filename": ["model.pt"], **copy.deepcopy(self.options), **options}
        data: dict[str, Any] = {**request, "device": "cpu", "model": "phanes", self.image: image, "image_path": image}
        self.parser["displayable_configs"].update({name: data[name] for name in self.options})
        self.parser.parse()
        with self._stage():
            self.parser.config["device"] = "cpu"
            self.parser.ref_resolver.items["device"] = ConfigItem(config="cpu", id="device")
            pre = list(self.parser.get_parsed_content("preprocessing").transforms)
        for transform in pre:
            if isinstance(transform, LoadImaged):
                transform._loader.image_only = False  # the server wants the meta data as a dictionary, too
            data = transform(data)
        with self._stage():
            inferer = self.parser.get_parsed_content("inferer")
        with torch.no_grad():
            data[self.pred] = inferer(data[self.image][None], self.network)[0]
        with self._stage():
            post = self.parser.get_parsed_content("postprocessing").transforms
        for transform in post:
            if not isinstance(transform, SaveImaged):
                data = transform(data)
        label = data[self.pred]
        assert tuple(label.shape[1:]) == tuple(data[self.image].meta["spatial_shape"])  # else the server resizes it
        return np.asarray(label[0])


class DeployHost:
    """MONAI Deploy's operator for a bundle.

    Args:
        bundle: its folder.
        network: what the application loaded (`model.ts`), called with the inferer's keywords.
    """

    def __init__(self, bundle: Path, network: torch.nn.Module) -> None:
        self.parser = ConfigParser()
        self.parser.read_meta(str(bundle / "configs" / "metadata.json"))
        self.parser.read_config(str(bundle / "configs" / "inference.json"))
        self.parser["bundle_root"] = str(bundle)
        self.parser["device"] = "cpu"
        self.parser.parse()
        sys.path.insert(0, str(bundle))
        self.network = network
        self.inferer = self.parser.get_parsed_content("inferer")
        self.pre = self._without_files("preprocessing")
        self.post = self._without_files("postprocessing")
        formats = self.parser["_meta_"]["network_data_format"]
        self.image, self.pred = next(iter(formats["inputs"])), next(iter(formats["outputs"]))

    def _without_files(self, name: str) -> Compose:
        compose: Compose = self.parser.get_parsed_content(name)
        kept = [t for t in compose.transforms if not any(w in type(t).__name__ for w in ("LoadImage", "SaveImage"))]
        return Compose(kept)

    def infer(self, volume: np.ndarray, affine_lps: np.ndarray) -> np.ndarray:
        """A volume (X, Y, Z) from a DICOM series -> the uint8 array (Z, Y, X) the next operator is handed."""
        meta = {
            MetaKeys.ORIGINAL_AFFINE: affine_lps,
            MetaKeys.AFFINE: affine_lps.copy(),
            MetaKeys.SPACE: SpaceKeys.LPS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
        }
        inputs = self.pre({self.image: MetaTensor.ensure_torch_and_prune_meta(volume, meta)})
        with torch.no_grad():
            output = self.inferer(inputs=inputs[self.image][None], network=self.network)
        # As there: the whole batch goes on, and the channel is squeezed out at the end.
        results = self.post({self.pred: output[0], **inputs})
        label = results[self.pred].cpu().numpy()
        return np.swapaxes(np.squeeze(label, 0), 0, 2).astype(np.uint8)
