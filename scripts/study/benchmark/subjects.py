"""What the benchmark measures: the shipped network, the published composition, training steps, other runtimes."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from monai.bundle import ConfigParser
from monai.inferers import SliceInferer
from torch import Tensor, nn

from ...method.networks.perceptual import VGG19_TAPS
from ...method.networks.trunks import IMAGENET_MEAN, IMAGENET_STD, vgg19
from ...method.phanes import Phanes
from ...release.demo import write_demo_input
from ...release.export import bundle_network, export_network
from ...training.features import PERCEPTUAL_TAPS, STYLE_TAPS
from ...training.losses import SoftIntroLoss, SoftMaskAdversarialLoss
from .measure import Work, has_bfloat16
from .published import AsPublished, AutoencoderStepAsPublished, InpainterStepAsPublished, contiguous, lpips_package

CONFIGS = Path("bundle/configs")
LEVELS = range(65, 125)  # axial slices of the MNI152 template at 1 mm: 30 mm on either side of the trained level
MASKED_SHARE = 0.03  # of the pixels, for networks that were never trained: about what training and lesions give
LEARNING_RATE = 5e-5  # published


def template_slices(levels: range = LEVELS) -> Tensor:
    """Axial slices of the MNI152 template with its painted stroke, preprocessed: (N, 1, 128, 128) in [0, 1]."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("inference.json", "paper.json")])
    parser.update({"bundle_root": "bundle", "slices": list(levels)})
    with tempfile.TemporaryDirectory() as folder:
        head = write_demo_input(folder)["stroke"]
        item = parser.get_parsed_content("preprocessing")({"image": str(head)})
    return torch.as_tensor(item["image"].as_tensor())[:1].float().movedim(-1, 0).contiguous()


def give_masks(network: Phanes, images: Tensor) -> Phanes:
    """Set an untrained network's threshold so that its masks cover about `MASKED_SHARE` of these images."""
    with torch.no_grad():
        threshold = network.coarse(images)[1].flatten().quantile(1.0 - MASKED_SHARE)
        network.mask.threshold.copy_(threshold)  # type: ignore[operator]
    return network


def networks(images: Tensor, device: torch.device) -> dict[str, Phanes]:
    """The paper's networks as shipped, and its size with the published code's choices and random weights."""
    shipped = bundle_network("bundle", overlays=["paper.json"])
    torch.manual_seed(0)
    # Without the published code's randomness, so that both compositions give the same numbers.
    choices = {"network_def::autoencoder::sample_latent": False, "size": "paper", "device": "cpu"}
    published = _parser(["inference.json", "paper.json", "released_code.json"], **choices)
    paper = published.get_parsed_content("network_def").eval().requires_grad_(False)
    return {"shipped": cast(Phanes, shipped.to(device)), "paper": paper.to(device)}


def no_grad(work: Callable[[], object]) -> Work:
    """The work in inference mode."""

    def run() -> object:
        with torch.inference_mode():
            return work()

    return run


def compositions(network: Phanes, images: Tensor, batch: int | None = None) -> dict[str, Work]:
    """Ours and the published composition of the same layers, on images (N, 1, H, W).

    Args:
        network: ours.
        images: on its device.
        batch: None for all images at once. Else the images are one volume. Ours takes it in batches of this size,
            through MONAI's `SliceInferer`. The published one takes it slice by slice, because its batches change the
            results.
    """
    published = AsPublished(network, lpips_package().to(images.device))
    if batch is not None:
        volume, size = images.movedim(0, -1)[None], list(images.shape[2:])
        ours, theirs = (SliceInferer(roi_size=size, spatial_dim=2, sw_batch_size=n) for n in (batch, 1))
        return {
            "ours": no_grad(lambda: ours(volume, network)),
            "as published": no_grad(lambda: theirs(volume, published)),
        }
    works: dict[str, Work] = {"ours": no_grad(partial(network, images)), "as published": partial(published, images)}
    if has_bfloat16(images.device):
        works["ours, bfloat16"] = _bfloat16(works["ours"], images.device)
    return works


def _bfloat16(work: Work, device: torch.device) -> Work:
    """The work under bfloat16 autocast, as `--amp true` runs it."""

    def run() -> object:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return work()

    return run


def runtimes(network: Phanes, images: Tensor) -> dict[str, Work]:
    """The same network by ONNX Runtime and OpenVINO, where they are installed. The export takes minutes."""
    works = {"ours": no_grad(lambda: network(images))}
    if not all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        return works
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        (path,) = export_network(network, ["onnx"], folder, images[:2], {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options)
        works["ONNX Runtime"] = lambda: session.run(None, {"image": images.numpy()})
        if importlib.util.find_spec("openvino"):
            import openvino

            precisions = {"OpenVINO": "f32"} | ({"OpenVINO, bfloat16": "bf16"} if has_bfloat16(images.device) else {})
            for name, precision in precisions.items():
                hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
                program = openvino.Core().compile_model(path, "CPU", hints)
                works[name] = lambda program=program: program([images.numpy()])  # type: ignore[misc]
    return works


def training_steps(size: str, images: Tensor) -> dict[str, dict[str, Work]]:
    """One step of each stage on a batch: ours, ours in bfloat16 where the device has it, and as published."""
    return {"autoencoder": _autoencoder_steps(size, images), "inpainter": _inpainter_steps(size, images)}


def _autoencoder_steps(size: str, images: Tensor) -> dict[str, Work]:
    works: dict[str, Work] = {}
    for label, amp in _precisions("ours", images.device):
        parser = _parser(["train.json"], size=size, device=str(images.device), amp=amp)
        step, network = parser.get_parsed_content("step"), parser.get_parsed_content("autoencoder")
        network.train()
        works[label] = lambda step=step: step(images)  # type: ignore[misc]
    plain: Any = contiguous(network).eval()  # the published training leaves the normalisation in evaluation mode
    published = AutoencoderStepAsPublished(plain, _adam(plain.encoder), _adam(plain.decoder), SoftIntroLoss())
    works["as published"] = lambda: published(images)
    return works


def _inpainter_steps(size: str, images: Tensor) -> dict[str, Work]:
    """Steps with the small distilled trunk, and with the paper's VGG19. Random weights do for its time."""
    files = ["train.json", "train_inpainter.json"]
    trunk = vgg19(IMAGENET_MEAN, IMAGENET_STD, VGG19_TAPS).requires_grad_(False).eval().to(images.device)

    def taps(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = dict(zip(VGG19_TAPS, trunk(images), strict=True))
        return [features[tap] for tap in STYLE_TAPS], [features[tap] for tap in PERCEPTUAL_TAPS]

    works: dict[str, Work] = {}
    for name in ("distilled", "VGG19"):
        for label, amp in _precisions(f"ours, {name}", images.device):
            parser = _parser(files, size=size, device=str(images.device), amp=amp, feature_trunk="distilled")
            step = parser.get_parsed_content("step")
            give_masks(step.network, images)
            step.network.inpainter.train()
            if name == "VGG19":
                step.trunk = taps
            works[label] = lambda step=step: step(images)  # type: ignore[misc]
    composition = AsPublished(step.network, lpips_package().to(images.device))
    composition.inpainter.train().requires_grad_(True)
    discriminator = contiguous(step.discriminator)
    optimizers = _adam(composition.inpainter), _adam(discriminator)
    published = InpainterStepAsPublished(composition, discriminator, *optimizers, trunk, SoftMaskAdversarialLoss())
    works["as published, VGG19"] = lambda: published(images)
    return works


def _precisions(label: str, device: torch.device) -> list[tuple[str, bool]]:
    """Label and `amp`: float32, and bfloat16 where the device has it."""
    return [(label, False), (f"{label}, bfloat16", True)] if has_bfloat16(device) else [(label, False)]


def _parser(files: list[str], **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([CONFIGS / file for file in files])
    parser.update({"bundle_root": "bundle", "cuda_graph": False, **overrides})
    return parser


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), LEARNING_RATE)
