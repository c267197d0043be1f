"""The whole method as one file that runs without this package: a `torch.export` program, or ONNX.

The command line is `python -m scripts export`. Input and output are described by `network_data_format` in the bundle's
metadata.json; from it comes the example that is traced. Heads are (B, C, H, W, D) with any batch B and any number of
levels D from `LEAST_LEVELS` on. A single slice is given as that many equal levels; each level of the result is its own.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ..common.checkpoints import load_network
from ..common.errors import PhanesInputError
from ..common.files import write_atomically
from ..method.phanes import CHANNELS

INPUT, OUTPUT = "image", "pred"  # the names that the bundle's metadata uses
LEAST_LEVELS = 5  # the anomaly map's largest cube must fit in, with room
Program = torch.export.ExportedProgram


def bundle_network(
    bundle_root: str | Path = "bundle",
    weights_file: str | Path | None = None,
    overlays: Sequence[str] = (),
    method: str = "both",
) -> nn.Module:
    """The network that `inference.json` defines, with its weights, in evaluation mode on the CPU.

    Args:
        bundle_root: the bundle's folder.
        weights_file: other weights than the config's.
        overlays: configs beside `inference.json`, by name.
        method: the network of whole heads, both or linear.

    Raises:
        PhanesInputError: there is no config, or there are no weights, or they do not fit each other.
    """
    parser = _config(bundle_root, overlays, method)
    network = parser.get_parsed_content("network_def")
    load_network(network, weights_file or parser.get_parsed_content("weights_file"))
    return network.eval().requires_grad_(False)


def _config(bundle_root: str | Path, overlays: Sequence[str], method: str) -> ConfigParser:
    root = Path(bundle_root)
    files = [root / "configs" / name for name in ("inference.json", *overlays)]
    for file in files:
        if not file.is_file():
            raise PhanesInputError(f"No config at '{file}': give the bundle's folder as bundle_root.")
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update({"bundle_root": str(root), "device": "cpu", "method": method})
    return parser


def example_of(metadata: Mapping[str, Any], batch: int = 2, levels: int = 6) -> Tensor:
    """Noise in the shape of the network's input, (B, C, H, W, D) float32. Channels from the second on hold MNI z, mm.

    Args:
        metadata: of the bundle.
        batch: heads.
        levels: of each head, 2 mm apart.
    """
    image = metadata["network_data_format"]["inputs"][INPUT]
    rows, columns = (int(side) for side in image["spatial_shape"][:2])
    channels = int(image["num_channels"])
    example = torch.rand(batch, channels, rows, columns, levels, generator=torch.Generator().manual_seed(0))
    example[:, 1:] = 2.0 * torch.arange(levels)
    return example


def about(bundle_root: str | Path, method: str = "both") -> dict[str, str]:
    """The texts inside an exported file: the bundle's version, its calibration, the channels' names."""
    root = Path(bundle_root)
    texts = {"channels": json.dumps(CHANNELS)}
    record = Path(_config(bundle_root, (), method).get_parsed_content("calibration_file"))
    for name, path in (("metadata", root / "configs/metadata.json"), ("calibration", record)):
        if path.is_file():
            texts[f"{name}.json"] = path.read_text(encoding="utf-8")
    return texts


def save_torch_export(program: Program, path: Path, texts: dict[str, str]) -> None:
    """Write a `torch.export` program. `torch.export.load(path).module()(image)` runs it."""
    # Through an open file: by path, torch insists on a suffix that the unfinished file does not have.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files=texts)


def save_onnx(program: Program, path: Path, texts: dict[str, str]) -> None:
    """Write an ONNX model. `onnxruntime.InferenceSession(path).run(None, {"image": array})` runs it.

    Raises:
        PhanesInputError: the packages that write ONNX are not installed.
    """
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise PhanesInputError(
            f"Exporting to ONNX needs {' and '.join(missing)}: run pip install -r requirements-onnx.txt, "
            "or leave onnx out."
        )
    written = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert written is not None  # noqa: S101 - dynamo=True always returns one
    written.model.metadata_props.update(texts)
    written.save(str(path))


FORMATS: dict[str, tuple[str, Callable[[Program, Path, dict[str, str]], None]]] = {
    "torch_export": (".pt2", save_torch_export),
    "onnx": (".onnx", save_onnx),
}


def export_network(
    network: nn.Module, formats: Sequence[str], folder: str | Path, example: Tensor, texts: dict[str, str]
) -> list[Path]:
    """Write a network as `<folder>/phanes.<suffix>`, a file a format. Each appears when it is complete.

    Args:
        network: in evaluation mode on the CPU.
        formats: of torch_export and onnx.
        folder: made when missing.
        example: an input (B, C, H, W, D) or (B, C, H, W). B is at least two: one would be taken for a fixed number.
        texts: stored inside, see `about`.

    Raises:
        PhanesInputError: a format is unknown, or its packages are missing.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise PhanesInputError(f"format is '{', '.join(unknown)}': choose among {', '.join(FORMATS)}.")

    free = torch.export.Dim.DYNAMIC
    shapes = {dim: free for dim in (0, 4) if dim < example.dim()}
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(shapes,))
    paths = []
    for name in formats:
        suffix, write = FORMATS[name]
        paths.append(Path(folder) / f"phanes{suffix}")
        write_atomically(paths[-1], lambda path, write=write: write(program, path, texts))  # type: ignore[misc]
    return paths


def export(
    formats: str | Sequence[str] = "torch_export",
    out: str | Path = ".",
    bundle_root: str | Path = "bundle",
    weights_file: str | Path | None = None,
    overlays: Sequence[str] = (),
    method: str = "both",
) -> list[Path]:
    """The bundle's network as files of its own: see `export_network` and `bundle_network`.

    Args:
        formats: names, as a sequence or separated by commas.
        out: folder.
        bundle_root: the bundle's folder.
        weights_file: other weights than the bundle's own.
        overlays: configs beside `inference.json`, by name.
        method: the network of whole heads, both or linear.
    """
    names = formats.split(",") if isinstance(formats, str) else list(formats)
    network = bundle_network(bundle_root, weights_file, overlays, method)
    texts = about(bundle_root, method)
    example = example_of(json.loads(texts["metadata.json"]))
    return export_network(network, [name.strip() for name in names], out, example, texts)
