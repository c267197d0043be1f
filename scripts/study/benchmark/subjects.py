"""What the benchmark measures: the shipped networks, the published composition, training steps, other runtimes."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ...method.head import HeadPhanes
from ...method.networks.aot_gan import PatchDiscriminator
from ...method.networks.perceptual import VGG19_TAPS
from ...method.networks.trunks import IMAGENET_MEAN, IMAGENET_STD, vgg19
from ...release.demo import write_demo_input
from ...release.export import bundle_network, export_network
from ...training.features import PERCEPTUAL_TAPS, STYLE_TAPS
from ...training.losses import SoftIntroLoss, SoftMaskAdversarialLoss
from ...training.prepared import BRAIN_VALUE
from ...training.restoration import adam, has_bfloat16, start, take_step
from .measure import CLOCKS, Stopwatch, Work
from .published import AsPublished, AutoencoderStepAsPublished, InpainterStepAsPublished, contiguous

CONFIGS = Path("bundle/configs")
LEARNING_RATE = 5e-5  # published
PUBLISHED = "as published"
NETWORKS = ("restoration network", "linear network")
BFLOAT16 = "bfloat16"
TRAINING_HEADS = 4  # copies of the head: how many there are does not change a step's time


def demo_head(folder: Path) -> Path:
    """The demo's head with its painted stroke, as a file."""
    return write_demo_input(folder)["stroke"]


def read_head(path: Path, clock: str = "wall") -> tuple[Tensor, dict[str, float]]:
    """A head as the network sees it, (1, 2, 128, 128, 77), and the seconds that each transform took, by its name."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.json")
    parser.update({"bundle_root": "bundle", "device": "cpu", "slices": "brain"})
    data: dict[str, Any] = {"image": str(path)}
    seconds: dict[str, float] = {}
    for step in parser.get_parsed_content("preprocessing").transforms:
        began = CLOCKS[clock]()
        data = step(data)
        seconds[type(step).__name__] = CLOCKS[clock]() - began
    return torch.as_tensor(data["image"].as_tensor())[None].float().contiguous(), seconds


def networks(device: torch.device) -> dict[str, HeadPhanes]:
    """The shipped method by its `--method`."""
    return {name: bundle_network("bundle", method=name).to(device) for name in ("both", "linear")}  # type: ignore[misc]


def no_grad(work: Callable[[], object]) -> Work:
    """The work in inference mode."""

    def run() -> object:
        with torch.inference_mode():
            return work()

    return run


def analyses(methods: dict[str, HeadPhanes], levels: Tensor) -> dict[str, Work]:
    """The shipped methods on levels (1, 2, 128, 128, N), and the published composition on the same N slices."""
    works: dict[str, Work] = {name: no_grad(partial(network, levels)) for name, network in methods.items()}
    if has_bfloat16(levels.device):
        works |= {f"{name}, {BFLOAT16}": _bfloat16(work, levels.device) for name, work in works.items()}
    torch.manual_seed(0)
    published, slices = AsPublished().to(levels.device), levels[0, 0].movedim(-1, 0)[:, None].contiguous()
    return {**works, PUBLISHED: lambda: published(slices)}


def _bfloat16(work: Work, device: torch.device) -> Work:
    """The work under bfloat16 autocast, as `--amp true` runs it."""

    def run() -> object:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return work()

    return run


def shares(network: HeadPhanes, head: Tensor, clock: str) -> dict[str, float]:
    """Seconds of the parts of the method on a head: of both networks, and of what lies around them."""
    parts: dict[str, list[tuple[Any, str]]] = {
        NETWORKS[0]: [(network.network.restoration, "restore")],
        NETWORKS[1]: [(network.network.linear, "in_single_precision")],
        "maps": [(network, "map_of"), (network, "contrast")],
        "mask": [(network.mask, "forward")],
    }
    return Stopwatch(parts, head.device, clock)(no_grad(lambda: network(head)))


def runtimes(network: HeadPhanes, levels: Tensor) -> dict[str, Work]:
    """The same network by ONNX Runtime and OpenVINO, where they are installed; a CPU's runtimes."""
    works = {"PyTorch": no_grad(lambda: network(levels))}
    if not all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        return works
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        (path,) = export_network(network, ["onnx"], folder, levels[..., :6].repeat(2, 1, 1, 1, 1), {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options)
        works["ONNX Runtime"] = lambda: session.run(None, {"image": levels.numpy()})
        if importlib.util.find_spec("openvino"):
            import openvino

            for name, precision in (("OpenVINO", "f32"), (f"OpenVINO, {BFLOAT16}", "bf16")):
                if precision == "f32" or has_bfloat16(levels.device):
                    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
                    program = openvino.Core().compile_model(path, "CPU", hints)
                    works[name] = lambda program=program: program([levels.numpy()])  # type: ignore[misc]
    return works


def training_steps(head: Tensor, batch: int) -> dict[str, dict[str, Work]]:
    """A step of each training on a batch of slices of this head; the paper's two stages also as published.

    The paper's stages are measured at the published size in both, with the same trunk.
    """
    slices = head[0, 0].movedim(-1, 0)[:, None]
    middle = (len(slices) - batch) // 2
    images = slices[middle : middle + batch].contiguous()
    return {
        "restoration": {"shipped": _restoration_step(head, batch)},
        "autoencoder": _autoencoder_steps(images),
        "inpainter": _inpainter_steps(images),
    }


def _restoration_step(head: Tensor, batch: int) -> Work:
    heads = (head[:, 0] * 2 * BRAIN_VALUE).round().clamp(0, 255).to(torch.uint8).repeat(TRAINING_HEADS, 1, 1, 1)
    network, maker = start(heads.cpu(), 0, head.device)
    network.train()
    optimizer = adam(network)
    return lambda: take_step(network, optimizer, maker(batch))


def _autoencoder_steps(images: Tensor) -> dict[str, Work]:
    works: dict[str, Work] = {}
    for name, settings in _variants(images.device).items():
        parser = _parser(["train.json"], images.device, settings)
        step, network = parser.get_parsed_content("step"), parser.get_parsed_content("autoencoder")
        network.train()
        works[name] = lambda step=step: step(images)  # type: ignore[misc]
    plain: Any = AsPublished().to(images.device).autoencoder  # its normalisation in evaluation mode, as published
    published = AutoencoderStepAsPublished(plain, _adam(plain.encoder), _adam(plain.decoder), SoftIntroLoss())
    return {**works, PUBLISHED: lambda: published(images)}


class RandomVGG19(nn.Module):
    """The paper's trunk with random weights; time does not depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = vgg19(IMAGENET_MEAN, IMAGENET_STD, VGG19_TAPS).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 1, H, W) -> features of the style loss, features of the perceptual loss."""
        features = {tap: found.float() for tap, found in zip(VGG19_TAPS, self.trunk(images), strict=True)}
        return [features[tap] for tap in STYLE_TAPS], [features[tap] for tap in PERCEPTUAL_TAPS]


def _inpainter_steps(images: Tensor) -> dict[str, Work]:
    trunk = RandomVGG19().to(images.device)
    works: dict[str, Work] = {}
    for name, settings in _variants(images.device).items():
        parser = _parser(["train.json", "train_inpainter.json"], images.device, settings)
        parser.update({"feature_trunk_def": trunk})
        step = parser.get_parsed_content("step")
        step.network.mask.threshold.fill_(0.1)
        step.network.inpainter.train()
        works[name] = lambda step=step: step(images)  # type: ignore[misc]
    composition = AsPublished().to(images.device)
    composition.inpainter.train()
    discriminator = contiguous(PatchDiscriminator().to(images.device))
    optimizers = _adam(composition.inpainter), _adam(discriminator)
    published = InpainterStepAsPublished(
        composition, discriminator, *optimizers, trunk.trunk, SoftMaskAdversarialLoss()
    )
    return {**works, PUBLISHED: lambda: published(images)}


def _variants(device: torch.device) -> dict[str, dict[str, Any]]:
    """As the configs ship; at the published size; and so in bfloat16, where the device has it."""
    found: dict[str, dict[str, Any]] = {"shipped": {}, "published size": {"size": "paper"}}
    if has_bfloat16(device):
        found[f"published size, {BFLOAT16}"] = {"size": "paper", "amp": True}
    return found


def _parser(files: list[str], device: torch.device, settings: dict[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([CONFIGS / file for file in files])
    usual = {"bundle_root": "bundle", "device": str(device), "amp": False, "cuda_graph": False}
    parser.update({**usual, **settings})
    return parser


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), LEARNING_RATE)
