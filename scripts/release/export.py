"""The whole method as one file that runs without this package: TorchScript, a `torch.export` program, or ONNX.

From (B, 1, H, W) slices in [0, 1], B free, to the four channels of `Phanes.forward`; equalisation, perceptual distance
and all thresholds are inside. `python -m scripts export` is the command line.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import nn

from ..common.checkpoints import load_network
from ..common.errors import PhanesInputError
from ..common.files import write_atomically
from ..method.phanes import CHANNELS
from ..space.levels import SIZE

INPUT, OUTPUT = "image", "pred"  # the names that the bundle's metadata uses
Program = Callable[[], torch.export.ExportedProgram]  # traced once, and only if a format needs it


def bundle_network(
    bundle_root: str | Path = "bundle", weights_file: str | Path | None = None, overlays: Sequence[str] = ()
) -> nn.Module:
    """The network that `inference.json` defines, with its weights, in evaluation mode on the CPU.

    Args:
        bundle_root: the bundle's folder.
        weights_file: other weights than the config's own.
        overlays: configs over `inference.json`, such as `mid_axial.json`.

    Raises:
        PhanesInputError: no config or weights there, or they do not fit each other.
    """
    root = Path(bundle_root)
    config = root / "configs" / "inference.json"
    if not config.is_file():
        raise PhanesInputError(f"No config at '{config}': give the bundle's folder as bundle_root.")
    parser = ConfigParser()
    parser.read_config([str(config.with_name(name)) for name in (config.name, *overlays)])
    parser.update({"bundle_root": str(root), "device": "cpu"})
    network = parser.get_parsed_content("network_def")
    load_network(network, weights_file or parser.get_parsed_content("weights_file"))
    return network.eval().requires_grad_(False)


def about(network: nn.Module, bundle_root: str | Path) -> dict[str, str]:
    """What travels inside an exported file as text: the bundle's version, its calibration, names of the channels."""
    root = Path(bundle_root)
    texts = {"channels": json.dumps(CHANNELS)}
    for name, path in (("metadata", root / "configs/metadata.json"), ("calibration", root / "models/calibration.json")):
        if path.is_file():
            texts[f"{name}.json"] = path.read_text(encoding="utf-8")
    return texts


def save_torchscript(network: nn.Module, program: Program, path: Path, texts: dict[str, str]) -> None:
    """A scripted module; `torch.jit.load(path)(image)`."""
    torch.jit.save(torch.jit.script(network), str(path), _extra_files={f"extra/{k}": v for k, v in texts.items()})


def save_torch_export(network: nn.Module, program: Program, path: Path, texts: dict[str, str]) -> None:
    """A `torch.export` program; `torch.export.load(path).module()(image)`."""
    # Through an open file: the format insists on its suffix, which a file that is still being written does not have.
    with path.open("wb") as file:
        torch.export.save(program(), file, extra_files=texts)


def save_onnx(network: nn.Module, program: Program, path: Path, texts: dict[str, str]) -> None:
    """An ONNX model; `onnxruntime.InferenceSession(path).run(None, {"image": array})`.

    Raises:
        PhanesInputError: the packages that write ONNX are not installed.
    """
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise PhanesInputError(
            f"Exporting to ONNX needs {' and '.join(missing)}: pip install -r requirements-onnx.txt, or leave onnx out."
        )
    written = torch.onnx.export(program(), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert written is not None  # noqa: S101 - dynamo=True always returns one
    written.model.metadata_props.update(texts)
    written.save(str(path))


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Program, Path, dict[str, str]], None]]] = {
    "torchscript": (".ts", save_torchscript),
    "torch_export": (".pt2", save_torch_export),
    "onnx": (".onnx", save_onnx),
}


def export_network(
    network: nn.Module, formats: Sequence[str], folder: str | Path, image_size: int, texts: dict[str, str]
) -> list[Path]:
    """Write a network in some formats, `<folder>/phanes.<suffix>`; each file appears when it is complete.

    Args:
        network: `Phanes` in evaluation mode on the CPU.
        formats: of torchscript, torch_export and onnx.
        folder: made when missing.
        image_size: side of the square slices that the network takes.
        texts: stored inside, see `about`.

    Raises:
        PhanesInputError: an unknown format, or its packages are missing.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise PhanesInputError(f"format must be one of {', '.join(FORMATS)}, not '{', '.join(unknown)}'.")

    @functools.cache
    def program() -> torch.export.ExportedProgram:
        # Two slices: a single one would be taken for a fixed number.
        example = torch.rand(2, 1, image_size, image_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))

    paths = []
    for name in formats:
        suffix, write = FORMATS[name]
        paths.append(Path(folder) / f"phanes{suffix}")
        write_atomically(paths[-1], functools.partial(_write, write, network, program, texts))
    return paths


def _write(write: Callable[..., None], network: nn.Module, program: Program, texts: dict[str, str], path: Path) -> None:
    write(network, program, path, texts)


def export(
    formats: str | Sequence[str] = "torchscript",
    out: str | Path = ".",
    bundle_root: str | Path = "bundle",
    weights_file: str | Path | None = None,
) -> list[Path]:
    """The bundle's network as files of its own: see `export_network` and `bundle_network`.

    Args:
        formats: names, as a sequence or separated by commas.
        out: folder.
        bundle_root: the bundle's folder.
        weights_file: other weights than the bundle's own.
    """
    names = formats.split(",") if isinstance(formats, str) else list(formats)
    network = bundle_network(bundle_root, weights_file)
    return export_network(network, [name.strip() for name in names], out, SIZE, about(network, bundle_root))
