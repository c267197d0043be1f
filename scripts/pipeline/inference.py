"""Run the bundle on a user's images: the checks before, and an evaluator that survives a bad case."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import EventEnum
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import apply_transform
from torch import Tensor, nn

from ..common.anonymous import anonymized
from ..common.checksums import verify_checksums
from ..common.cli import fail
from ..common.errors import PhanesInputError, PhanesOutputError
from ..common.files import sha256_of_file
from ..common.fingerprint import choices
from ..common.processes import process_rank, share
from ..common.sources import changed_while_read, signature
from ..dicom.selection import SeriesSelection
from .cases import find_cases
from .folders import paths_of
from .records import CaseRecords
from .thresholds import KINDS, Thresholds

logger = logging.getLogger(__name__)
SMALLER_CHUNKS = (8, 1)  # slices at a time, where memory does not suffice


class CaseEvents(EventEnum):
    """The event that `CaseEvaluator` adds to MONAI's: a case failed, and `engine.state.error` says why."""

    CASE_FAILED = "case_failed"


def sentence_of(error: BaseException) -> str:
    """The one sentence that a user needs: that of the `PhanesInputError` behind an exception, or of its root."""
    root = error
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, PhanesInputError):
            return " ".join(str(chain).split())
        root, chain = chain, chain.__cause__ or chain.__context__
    return " ".join(f"Unexpected {type(root).__name__}: {root}".split())[:500]


class CaseDataset(Dataset):
    """`monai.data.Dataset`, but items keep their case's name and path, and a failure is an item, too.

    Args:
        data: items of `find_cases`, `{"image": path, "case": name}`.
        transform: the preprocessing.

    Items are the transform's with `case`, `path` and `seconds` added, or `{"case", "path", "error"}` when it failed.
    """

    def _transform(self, index: int) -> dict[str, Any]:
        item = dict(self.data[index])
        record = {"case": item["case"], "path": item["image"], "signature": signature(self.data[index])}
        started = time.perf_counter()
        try:
            prepared = dict(apply_transform(self.transform, item))
            return prepared | record | {"seconds": time.perf_counter() - started}
        except Exception as error:
            logger.debug("case %s", item["case"], exc_info=True)
            changed = record["signature"] != signature(self.data[index])
            return {**record, "error": changed_while_read(item["image"]) if changed else sentence_of(error)}


class HeadInferer(SimpleInferer):
    """Hands a head (1, 2, H, W, D) to the network, under bfloat16 autocast where wanted.

    bfloat16 pays on GPUs and on CPUs with AMX or AVX-512 BF16 instructions (docs/performance.md). MONAI's own `amp` is
    for CUDA only.

    If the device's memory is too small, fewer slices go through the network at a time, in the end one. Then the CPU
    takes over. The log says so; `fallback` keeps the sentence for the case's warnings.

    Args:
        amp: bfloat16 for convolutions and matrix products.
    """

    def __init__(self, amp: bool = False) -> None:
        super().__init__()
        self.amp = amp
        self.fallback = ""

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        plain = torch.as_tensor(inputs).as_subclass(Tensor)  # MONAI's own loses its way where levels are a batch
        self.fallback = ""
        usual = getattr(network, "chunk", 1)
        try:
            for size in (usual, *(n for n in SMALLER_CHUNKS if n < usual)):
                if size != usual:
                    self._say(f"too little memory on {plain.device}: {size} slices at a time")
                    network.chunk = size  # type: ignore[attr-defined]
                result = self._tried(plain, network, *args, **kwargs)
                if result is not None:
                    return result
        finally:
            if usual != getattr(network, "chunk", 1):
                network.chunk = usual  # type: ignore[attr-defined]
        self._say(f"too little memory on {plain.device}: analysed on the CPU")
        return self._result(plain.cpu(), copy.deepcopy(network).cpu(), *args, **kwargs)  # type: ignore[attr-defined]

    def _result(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.amp):
            return super().__call__(inputs, network, *args, **kwargs)

    def _tried(self, *args: Any, **kwargs: Any) -> Any:
        """The result; None when memory was too small."""
        try:
            return self._result(*args, **kwargs)
        except RuntimeError as error:  # of CUDA a class of its own, of mps a plain one
            if "out of memory" not in str(error):
                raise
        torch.cuda.empty_cache()  # nothing without CUDA
        return None

    def _say(self, text: str) -> None:
        self.fallback = text
        logger.warning(text)


class CaseEvaluator(SupervisedEvaluator):
    """`SupervisedEvaluator`, but a case that fails is one `CASE_FAILED` event and not the end of the run.

    Handlers of a case, such as the one that writes its results, attach to `IterationEvents.MODEL_COMPLETED`: their
    errors are caught, too. Only results that cannot be written end the run: no other case could be written either.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["event_names"] = [*(kwargs.get("event_names") or []), CaseEvents]
        super().__init__(*args, **kwargs)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict:
        for name in ("case", "path", "signature"):
            setattr(engine.state, name, batchdata[name][0])
        if "error" in batchdata:
            engine.state.error = batchdata["error"][0]
        else:
            engine.state.seconds = float(batchdata["seconds"][0])
            try:
                return super()._iteration(engine, batchdata)
            except PhanesOutputError:
                raise
            except Exception as error:
                logger.debug("case %s", engine.state.case, exc_info=True)
                engine.state.error = sentence_of(error)
        engine.state.output = {}
        engine.fire_event(CaseEvents.CASE_FAILED)
        return {}


def share_of_cases(records: CaseRecords, cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """This process's share of the unfinished cases.

    Process 0 looks for them before any process writes a result. So a case of a killed process is in somebody's share
    the next time.

    Args:
        records: open.
        cases: all cases.
    """
    return share(records.unfinished(cases) if process_rank() == 0 else [])


def checked_cases(
    dataset_dir: str | Sequence[str],
    output_dir: str,
    device: str | torch.device = "cpu",
    selection: SeriesSelection | None = None,
    anonymize: bool = False,
    anonymize_key: str = "",
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """The cases of a run, after the checks that need no image: input, output folder, device, number of processes.

    Args:
        dataset_dir: see `find_cases`.
        output_dir: made when missing.
        device: it must be usable.
        selection: which DICOM series are cases.
        anonymize: name the cases by checksums, see `anonymous`.
        anonymize_key: of these checksums.
        num_workers: of processes that read ahead.

    Returns:
        Items of `find_cases`, without those that lie inside the output folder.

    Raises:
        SystemExit: one sentence on the command line (`PhanesInputError` elsewhere).
    """
    try:
        cases = find_cases(dataset_dir, selection)
        _check_output_dir(Path(output_dir), paths_of(dataset_dir))
        _check_device(device)
        _check_workers(num_workers)
    except PhanesInputError as error:
        if anonymize and selection is not None and (selection.decisions or selection.passed_over):
            fail("No image was taken for T1w, and the reasons quote names: run without --anonymize to read them.")
        fail(str(error))
    output = Path(output_dir).resolve()
    # realpath and not Path.resolve, which raises on a link that leads in a circle.
    cases = [case for case in cases if output not in Path(os.path.realpath(case["image"])).parents]
    if not cases:
        fail(f"The input '{dataset_dir}' holds nothing but earlier results in output_dir: choose another output_dir.")
    return anonymized(cases, str(anonymize_key)) if anonymize else cases


def verify_bundle(bundle_root: str, verify: bool = False) -> None:
    """Compare a packaged bundle with its `SHA256SUMS`, if `verify`: no file may be changed, missing or added.

    It finds accidents and careless changes. Against an attacker, compare the list itself with the published one
    (docs/reliability.md).

    Raises:
        SystemExit: one sentence on the command line (`PhanesInputError` elsewhere).
    """
    try:
        if verify:
            verify_checksums(bundle_root, within=("configs", "models", "scripts"))
    except PhanesInputError as error:
        fail(str(error))


def _check_output_dir(output: Path, datasets: Sequence[Path]) -> None:
    if output.resolve() in [dataset.resolve() for dataset in datasets]:
        raise PhanesInputError(f"output_dir '{output}' is also the dataset_dir: choose another folder for the results.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhanesInputError(
            f"output_dir '{output}' cannot be created ({error.strerror}): choose another."
        ) from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise PhanesInputError(f"output_dir '{output}' is not writable: choose another.")


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:
        there = [name for name, used in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if used.is_available()]
        raise PhanesInputError(
            f"device '{device}' cannot be used here: give {' or '.join(['cpu', *there])}."
        ) from error


def _check_workers(number: object) -> None:
    if not (isinstance(number, int) and number >= 0):
        raise PhanesInputError(f"num_workers is {number!r}: give a whole number of processes, 0 for none.")


def read_calibration(path: str | Path, weights: str | Path, network: nn.Module | None = None) -> dict[str, Any]:
    """Read `calibration.json` and check that it belongs to the weights. Warns if it was made with other choices.

    Args:
        path: the record of the calibrate workflow. It has `heads` or `slices` or both, each with a `label_threshold`
            (>= 0), and `weights_sha256`.
        weights: the state dict it was made for.
        network: the weights must be its own. Its components are compared with the record's `method`, where it has one.

    Raises:
        SystemExit: one sentence on the command line (`PhanesInputError` elsewhere) when a file is missing, unreadable
            or made for other weights, or when the weights are of another network.
    """
    for file, what in ((weights, "weights"), (path, "calibration")):
        if not Path(file).is_file():
            fail(f"{what} '{file}' not found: give the bundle's folder with --bundle_root, or run train and calibrate.")
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if not any(kind in record for kind in KINDS):  # one threshold for all
            record |= {kind: {"label_threshold": record["label_threshold"]} for kind in KINDS}
        for kind in KINDS:
            if kind in record:
                Thresholds.of(record, kind)
        expected = str(record["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        fail(f"calibration '{path}' is not a calibration record: run the calibrate workflow again.")
    if sha256_of_file(weights) != expected:
        fail(f"calibration '{path}' was made for other weights than '{weights}': run the calibrate workflow for them.")
    if network is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
        own = network.state_dict()
        if any(name not in state or state[name].shape != value.shape for name, value in own.items()):
            fail(
                f"'{weights}' holds weights of another network than the configs name: give the weights that belong to "
                "them, or leave out mid_axial.json, paper.json, --method or --size."
            )
    made_with = record.get("method", {})
    chosen = made_with if network is None else choices(network)
    if others := [f"{name} {value}" for name, value in made_with.items() if chosen.get(name) != value]:
        logger.warning(
            "calibration '%s' was made with %s: with other choices the label does not keep its promise; "
            "run the calibrate workflow with the same options, or give --label_threshold.",
            path,
            ", ".join(others),
        )
    return dict(record)
