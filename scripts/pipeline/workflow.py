"""The bundle's own inference workflow from Python: on a folder, an image, or given cases."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.engines import IterationEvents
from numpy.typing import ArrayLike

from ..common.cli import check_overrides
from ..common.errors import PhanesInputError
from .cases import find_cases
from .inference import CaseEvents
from .results import IMAGES


def analyse_folder(
    bundle_root: str | Path, dataset_dir: str | Path, output_dir: str | Path, options: Mapping[str, Any]
) -> None:
    """Analyse every case of a folder, as `monai.bundle run inference` does, with report and summary.

    Args:
        bundle_root: the bundle's folder.
        dataset_dir: of the cases, or one file.
        output_dir: of the results.
        options: other entries of the config.

    Raises:
        PhanesInputError: there is no such option or nothing to analyse, or a case failed. MONAI may have wrapped it.
    """
    check_options(bundle_root, options)
    _run(bundle_root, {**options, "dataset_dir": str(dataset_dir), "output_dir": str(output_dir)})


def analyse_image(
    bundle_root: str | Path, image: str | Path | ArrayLike, affine: ArrayLike | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Analyse one image, without writing anything, see `phanes.analyse`.

    Args:
        bundle_root: the bundle's folder.
        image: a path, or an array (X, Y, Z) or (X, Y).
        affine: (4, 4) voxel to world, mm, RAS+, of an array.
        options: other entries of the config.

    Raises:
        PhanesInputError: the image cannot be analysed, or there is no such option.
    """
    check_options(bundle_root, options)
    if isinstance(image, str | Path):
        cases = find_cases(str(image))
        if len(cases) != 1:
            raise PhanesInputError(f"'{image}' holds {len(cases)} cases: give one, or use the command phanes.")
        return _analyse_case(bundle_root, cases[0], options)
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise PhanesInputError(f"The array holds {array.dtype} values: give one real intensity a voxel.")
    if affine is None:
        raise PhanesInputError("An array needs its affine: give the (4, 4) matrix from voxels to world, mm, RAS+.")
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise PhanesInputError(f"The affine has the shape {matrix.shape}: give the (4, 4) matrix from voxels to world.")
    with tempfile.TemporaryDirectory(prefix="phanes-") as folder:
        path = Path(folder) / "image.nii"  # every check of the reader counts for arrays, too
        nib.save(nib.Nifti1Image(array.astype(np.float32), matrix), path)
        return _analyse_case(bundle_root, {"case": "image", "image": str(path)}, options)


def analyse_cases(
    bundle_root: str | Path,
    cases: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Run `inference.json` as `monai.bundle run inference --dicom_output true` does, but on given cases.

    Reading, checks, pre- and post-processing, network and writers are the bundle's, so the results are the same.

    Args:
        bundle_root: the bundle's folder.
        cases: `{"case": name, "image": path}` each; for a DICOM series also `files` and `note`, see `find_cases`.
        output_dir: gets `<case>/dicom/` for each case that succeeds, and `summary.csv`.
        overrides: of entries of `inference.json`.

    Raises:
        PhanesInputError: a case or the whole run failed, or an override changes what other arguments give.
    """
    given = {"output_dir": str(output_dir), "cases": [dict(case) for case in cases], "dicom_output": True}
    overrides = overrides or {}
    if taken := sorted(given.keys() & overrides.keys()):
        raise PhanesInputError(f"{', '.join(taken)} cannot be changed here: leave it out.")
    _run(bundle_root, {**overrides, **given})


def check_options(bundle_root: str | Path, options: Mapping[str, Any]) -> None:
    """Refuse options that the config does not know, as the command line does.

    Raises:
        PhanesInputError: there is no such option. It names the nearest one.
    """
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    check_overrides(["--config_file", _config(bundle_root), *words])


def _config(bundle_root: str | Path) -> str:
    return str(Path(bundle_root) / "configs" / "inference.json")


class _Keeper:
    """Takes the reporter's place: it keeps the results of the one case, or its error, instead of writing them."""

    def __init__(self) -> None:
        self.output: dict[str, Any] = {}
        self.error = ""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.completed)
        engine.add_event_handler(CaseEvents.CASE_FAILED, self.failed)

    def completed(self, engine: Any) -> None:
        self.output = {**engine.state.batch[0], **engine.state.output[0]}

    def failed(self, engine: Any) -> None:
        self.error = engine.state.error


def _analyse_case(bundle_root: str | Path, case: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    keeper = _Keeper()
    changes = {
        "cases": [dict(case)],
        "unfinished_cases": "@cases",
        "reporter": keeper,
        "run": ["$@evaluator.run()"],
    }
    _run(bundle_root, {**options, **changes})
    if keeper.error:
        raise PhanesInputError(keeper.error)
    output = keeper.output
    shape = tuple(int(n) for n in output["source"].shape[1:])
    ndim = int(output["source"].meta.get("original_ndim", 3))
    images = {
        name: output[key].as_tensor()[0].cpu().numpy().astype(kind).reshape(shape[: max(ndim, 2)])
        for key, (name, kind) in IMAGES.items()
    }
    return {
        **images,
        "findings": [asdict(finding) for finding in output["findings"]],
        "score": float(output["anomaly_score"]),
        "warnings": str(output["image"].meta.get("warnings", "")),
    }


def _run(bundle_root: str | Path, entries: Mapping[str, Any]) -> None:
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that no logging was asked for
    workflow = ConfigWorkflow(
        config_file=_config(bundle_root),
        workflow_type="infer",
        logging_file=False,
        **{"bundle_root": str(bundle_root), **entries},
    )
    workflow.initialize()
    try:
        workflow.run()
    finally:
        workflow.finalize()
