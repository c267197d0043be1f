"""The parts of the network from the files that training wrote: for stage 2, and for the calibration of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..common.errors import PhanesInputError
from ..method.networks.perceptual import SpatialLPIPS
from ..method.phanes import Phanes


def load_part(module: nn.Module, path: str, producer: str) -> nn.Module:
    """Fill one part of the network from its own file.

    Args:
        module: the part.
        path: a state dict, read with `weights_only=True`.
        producer: the command that writes the file, for the error message.

    Raises:
        PhanesInputError: the file is missing or belongs to another architecture.
    """
    if not Path(path).is_file():
        raise PhanesInputError(f"'{path}' does not exist: run {producer} first.")
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PhanesInputError(
            f"'{path}' does not fit this network ({reason}): give weights of the same --size."
        ) from error
    return module


def load_perceptual(network: SpatialLPIPS, path: str | None) -> None:
    """Fill the distance S of the method.

    Args:
        network: the distilled one, or LPIPS' SqueezeNet.
        path: a state dict: the distilled network's own, or SqueezeNet's in torchvision's layout. None takes SqueezeNet
            from torchvision's cache (TORCH_HOME), or downloads it.

    Raises:
        PhanesInputError: the weights were not found. No other weights take their place.
    """
    if network.distilled:
        load_part(network, str(path), "distill_perceptual.json")
        return
    try:
        published = SpatialLPIPS("file", path) if path else SpatialLPIPS("imagenet")
    except (OSError, ValueError) as error:
        raise PhanesInputError(
            f"LPIPS' SqueezeNet was not found ({error}): give torchvision's file by --perceptual_file, or take the "
            "distilled network by --network_def::perceptual::trunk distilled (docs/training.md)."
        ) from error
    network.load_state_dict(published.state_dict())


def load_first_stage(network: Phanes, autoencoder_file: str, perceptual_file: str | None) -> None:
    """Load what stage 2 builds upon: the trained autoencoder and the perceptual network."""
    load_part(network.autoencoder, autoencoder_file, "train.json")
    load_perceptual(cast(SpatialLPIPS, network.perceptual), perceptual_file)


def load_trained(
    network: Phanes, model_file: str, autoencoder_file: str, inpainter_file: str, perceptual_file: str | None
) -> dict[str, Any]:
    """Fill the network, from a whole `model.pt` or from the files of both stages.

    Args:
        network: PHANES.
        model_file: a whole `model.pt`; empty to read the other three files.
        autoencoder_file: weights of stage 1.
        inpainter_file: weights of stage 2.
        perceptual_file: see `load_perceptual`.

    Returns:
        The training records beside the files, by stage.

    Raises:
        PhanesInputError: a file is missing or belongs to another network.
    """
    if model_file:
        load_part(network, model_file, "calibrate.json")
        return _record(Path(model_file).with_name("calibration.json")).get("training", {})
    load_first_stage(network, autoencoder_file, perceptual_file)
    load_part(network.inpainter, inpainter_file, "train_inpainter.json")
    files = {"autoencoder": autoencoder_file, "inpainter": inpainter_file}
    return {stage: _record(Path(file).with_suffix(".json")) for stage, file in files.items()}


def _record(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
