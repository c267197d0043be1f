"""What the benchmark measures: our network, the published composition, the bare networks, stages, other methods."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from monai.bundle import ConfigParser
from monai.inferers import SliceInferer
from torch import Tensor, nn

from ...method.coarse_map import normalize_by_quantile
from ...method.equalize import equalize_adapthist
from ...method.filling import compose_pseudo_healthy, fill_hole
from ...method.filters import gaussian_filter
from ...method.phanes import Phanes
from ...release.demo import write_demo_input
from ...release.export import bundle_network, export_network
from ..baselines.anoddpm import AnoDDPM
from ..baselines.patchcore import PatchCore
from ..evaluation.systems import Entry
from .measure import Work, has_bfloat16
from .published import AsPublished, contiguous, lpips_package

CONFIGS = Path("bundle/configs")
LEVELS = range(65, 125)  # axial slices of the MNI152 template at 1 mm: 30 mm on either side of the trained level
# What the published code does, without the randomness; both compositions can then be compared number by number.
AS_PUBLISHED = {
    "size": "paper",
    "network_def::mask": {"_target_": "scripts.method.mask_rule.CalibratedMask", "sigma": 1.2},
    "network_def::autoencoder::sample_latent": False,
    "device": "cpu",
}
MASKED_SHARE = 0.03  # of the pixels, for networks that were never trained: about what training and lesions give
ANODDPM_STEPS = 200


def template_slices(levels: range = LEVELS) -> Tensor:
    """Axial slices of the MNI152 template with its painted stroke, preprocessed: (N, 1, 128, 128) in [0, 1]."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.json")
    parser.update({"bundle_root": "bundle", "slices": list(levels)})
    with tempfile.TemporaryDirectory() as folder:
        head = write_demo_input(folder)["stroke"]
        item = parser.get_parsed_content("preprocessing")({"image": str(head)})
    return torch.as_tensor(item["image"].as_tensor()).float().movedim(-1, 0).contiguous()


def give_masks(network: Phanes, images: Tensor) -> Phanes:
    """Set an untrained network's threshold so that its masks cover about `MASKED_SHARE` of these images."""
    with torch.no_grad():
        network.mask.threshold.copy_(network.coarse(images)[1].flatten().quantile(1.0 - MASKED_SHARE))  # type: ignore[operator]
    return network


def networks(images: Tensor, device: torch.device) -> dict[str, Phanes]:
    """The bundle's own, with and without refinements; the published size with random weights and published choices."""
    shipped, _ = bundle_network("bundle")
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config([CONFIGS / "inference.json", CONFIGS / "released_code.json"])
    parser.update({**AS_PUBLISHED, "bundle_root": "bundle"})
    paper = parser.get_parsed_content("network_def").eval().requires_grad_(False)
    give_masks(paper, images[:4])
    shipped = shipped.to(device)
    one_filling = cast(Phanes, copy.copy(shipped))
    one_filling.refinement = None
    return {"shipped": shipped, "one filling": one_filling, "paper": paper.to(device)}


def published(network: Phanes, device: torch.device) -> AsPublished:
    """The published composition around a network's layers, its distance from the `lpips` package."""
    return AsPublished(network, lpips_package().to(device))


def no_grad(work: Callable[[], object]) -> Work:
    """The work in inference mode."""

    def run() -> object:
        with torch.inference_mode():
            return work()

    return run


def bfloat16(work: Work, device: torch.device) -> Work:
    """The work under bfloat16 autocast, as `--amp true` runs it."""

    def run() -> object:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return work()

    return run


def volume_work(network: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Work:
    """All slices as one volume (1, 1, H, W, D) through MONAI's `SliceInferer`, `batch` at a time."""
    volume = images.movedim(0, -1)[None]
    inferer = SliceInferer(roi_size=list(images.shape[2:]), spatial_dim=2, sw_batch_size=batch)
    return no_grad(lambda: inferer(volume, network))


@torch.inference_mode()
def stages(network: Phanes, images: Tensor) -> dict[str, tuple[str, Work]]:
    """The stages of `Phanes.forward`, each with its inputs at hand: name -> (`network` or `other`, work)."""
    coarse, coarse_map = network.coarse(images)
    mask = network.mask(coarse_map)
    filled = network.masked_input(images, mask, coarse)
    generated = network.inpainter(filled, mask)
    healthy = compose_pseudo_healthy(images, generated, mask)
    _, a, b = network.coarse_map.compare(images, coarse)
    refills, refinements = network.filling.passes, 0 if network.refinement is None else network.refinement.times
    fillings = 1 + refinements
    lpips = copy.copy(network.perceptual)
    lpips.smoothing = 0.0
    saliency, sigma = lpips(a, b), network.perceptual.smoothing

    def repeated(work: Callable[[], object], times: int = fillings) -> Callable[[], object]:
        return lambda: [work() for _ in range(times)]

    def composed() -> Tensor:
        return network.anomaly_map(images, compose_pseudo_healthy(images, generated, mask), saliency)

    def masks() -> None:
        network.mask(coarse_map)
        for _ in range(refinements):
            network.refinement(saliency)  # type: ignore[misc]

    works: dict[str, tuple[str, Callable[[], object]]] = {
        "coarse reconstruction": ("network", lambda: network.autoencoder(images)),
        "perceptual distance, eq. (3)": ("network", lambda: lpips(a, b)),
        "filling drawn again": ("network", repeated(lambda: network.autoencoder(filled), fillings * refills)),
        "inpainter": ("network", repeated(lambda: network.inpainter(filled, mask))),
        "perceptual distance, eq. (4)": ("network", repeated(lambda: lpips(healthy, images))),
        "equalisation": ("other", lambda: equalize_adapthist(torch.cat([images, coarse]))),
        "smoothing of both distances": ("other", repeated(lambda: gaussian_filter(saliency, sigma), 1 + fillings)),
        "norm95 and product": (
            "other",
            lambda: network.coarse_map(normalize_by_quantile((coarse - images).abs()), saliency),
        ),
        "masks": ("other", masks),
        "hole filled": ("other", repeated(lambda: fill_hole(images, mask, coarse), fillings * (1 + refills))),
        "composition and map": ("other", repeated(composed)),
        "bias field's fit": ("other", lambda: network.bias_field(images, coarse) if network.bias_field else None),
        "relative map": (
            "other",
            lambda: network.relative_map(saliency, images, coarse) if network.relative_map else None,
        ),
    }
    return {name: (kind, no_grad(work)) for name, (kind, work) in works.items()}


def bare(network: Phanes, images: Tensor) -> Work:
    """The forward passes of the networks alone, the floor of any composition."""
    passes = [work for kind, work in stages(network, images).values() if kind == "network"]
    return lambda: [work() for work in passes]


def runtimes(network: Phanes, images: Tensor) -> dict[str, Work]:
    """The same network in PyTorch's own memory format, under autocast, frozen by TorchScript, and by ONNX Runtime and
    OpenVINO where installed. The export to ONNX takes minutes."""
    works = {"ours": no_grad(lambda: network(images))}
    plain: Phanes = contiguous(network)  # type: ignore[assignment]
    works["contiguous tensors"] = no_grad(lambda: plain(images))
    if has_bfloat16(images.device):
        works["ours, bfloat16"] = bfloat16(works["ours"], images.device)
    # Frozen first: otherwise `optimize_for_inference` calls the Python method `train` of a scripted class.
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(network)))
    works["TorchScript, frozen and fused"] = no_grad(lambda: frozen(images))
    if images.device.type == "cpu" and all(importlib.util.find_spec(p) for p in ("onnx", "onnxscript", "onnxruntime")):
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            (path,) = export_network(network, ["onnx"], folder, images.shape[2], {})
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(path, options)
            array = images.numpy()
            works["ONNX Runtime"] = lambda: session.run(None, {"image": array})
            works |= _openvino(str(path), images)
    return works


def _openvino(path: str, images: Tensor) -> dict[str, Work]:
    """A program in ONNX compiled by OpenVINO where it is installed, in the precisions the processor has."""
    if importlib.util.find_spec("openvino") is None:
        return {}
    import openvino

    precisions = {"OpenVINO": "f32", **({"OpenVINO, bfloat16": "bf16"} if has_bfloat16(images.device) else {})}
    works: dict[str, Work] = {}
    for name, precision in precisions.items():
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        program = openvino.Core().compile_model(path, "CPU", options)
        works[name] = lambda program=program: program([images.numpy()])  # type: ignore[misc]
    return works


def anoddpm(device: torch.device) -> AnoDDPM:
    """AnoDDPM at published size, random weights."""
    overrides = {"size": "paper", "start_step": ANODDPM_STEPS, "device": "cpu"}
    return Entry(config_files=[CONFIGS / "baselines/anoddpm.json"], overrides=overrides).build(device)  # type: ignore


def anoddpm_step(system: AnoDDPM, images: Tensor) -> Work:
    """One of its reverse steps: noise, network pass, step."""
    steps = torch.full((len(images),), 100, device=images.device)

    def run() -> object:
        noise = system.noise((images.shape[2], images.shape[3]), steps[:1], 0)
        return system.reverse_step(images, system.predict_noise(images, steps), 100, 99, noise)

    return no_grad(run)


def patchcore(device: torch.device, slices: int = 380) -> PatchCore:
    """PatchCore at published size (WideResNet50-2, 10 % coreset), random weights, with a bank as of so many slices."""
    overrides = {"size": "paper", "backbone_weights": "random", "device": "cpu"}
    entry = Entry(config_files=[CONFIGS / "baselines/patchcore.json"], overrides=overrides)
    system: PatchCore = entry.build(device)  # type: ignore[assignment]
    side = system.backbone.shapes(128)[0][1]
    size = int(slices * side**2 * system.coreset_ratio)
    system.bank = torch.randn(size, system.embedding_dim, generator=torch.Generator().manual_seed(0)).to(device)
    return system


def residual_autoencoder(device: torch.device) -> nn.Module:
    """The plain residual autoencoder: PHANES' first stage at published size and |x - reconstruction|."""
    overrides = {"size": "paper", "anomaly_map": "residual", "device": "cpu"}
    return Entry(config_files=[CONFIGS / "baselines/ra.json"], overrides=overrides).build(device)
