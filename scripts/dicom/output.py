"""Results as DICOM objects of the source's study, one call for a case."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import optional_import
from numpy.typing import NDArray
from PIL import Image

from ..common.errors import PhanesInputError
from .concepts import Findings, Software, Target
from .derived import derived_mr_series
from .parametric_map import parametric_map
from .read import LPS_TO_RAS, SourceSeries, read_source
from .report import structured_report
from .secondary_capture import secondary_capture
from .segmentation import segmentation

highdicom, _ = optional_import("highdicom")


def write_dicom_results(
    source: SourceSeries | str | Path | Sequence[str | Path],
    arrays: Mapping[str, NDArray],
    findings: Findings,
    out_dir: str | Path,
    pictures: Sequence[NDArray[np.uint8] | str | Path] = (),
    software: Software | None = None,
    affine: NDArray | None = None,
) -> list[Path]:
    """Write a case's results as DICOM: segmentation, parametric map, derived MR series, pictures and report.

    The objects cover the source's analysed slices (`analysed`): each is a regular volume on the source's own grid. They
    belong to its study and frame of reference.

    Args:
        source: the series that was analysed, or its folder or files.
        arrays: `label` (the findings' numbers), `anomaly` (>= 0), `pseudo_healthy` (the source's real units) and, where
            known, `analysed` (0/1); each (X, Y, Z).
        findings: the case's numbers.
        out_dir: folder for the objects. Its old content is replaced once all are written.
        pictures: RGB arrays (rows, columns, 3) or image files.
        software: what made the results.
        affine: (4, 4) from the arrays' indices to RAS+, mm; the default is `SourceSeries.affine`. Axes may be permuted
            and flipped against the source's. No voxel is interpolated.

    Returns:
        The files written: `segmentation.dcm`, `anomaly_map.dcm`, `pseudo_healthy/0001.dcm` ..., `picture_1.dcm` ...,
        `report.dcm`.

    Raises:
        PhanesInputError: the source lacks what a valid object needs, or the arrays do not lie on its grid.
    """
    if not isinstance(source, SourceSeries):
        source = read_source(source, pixels=False)
    if source.unfit:
        raise PhanesInputError(source.unfit)
    volumes = {name: _on_source_grid(array, affine, source) for name, array in arrays.items()}
    first, end = _analysed_range(volumes.pop("analysed", None), source.geometry.spatial_shape[0])
    part = {name: volume[first:end] for name, volume in volumes.items()}

    target = Target(source, software or Software())
    images = [p if isinstance(p, np.ndarray) else np.asarray(Image.open(p).convert("RGB")) for p in pictures]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom and pydicom on the source's own header
        return _save(_objects(part, images, first, findings, target), Path(out_dir))


def _objects(
    part: Mapping[str, Any],
    pictures: Sequence[NDArray],
    first: int,
    findings: Findings,
    target: Target,
) -> dict[str, Any]:
    """All objects of a case, by their file's name."""
    label = part["label"].with_array(part["label"].array.astype(np.uint8))
    anomaly = part["anomaly"].with_array(part["anomaly"].array.astype(np.float32))
    seg = segmentation(label, findings, target)
    pm = parametric_map(anomaly, findings.threshold, target)
    derived = derived_mr_series(part["pseudo_healthy"], first, target)
    series = target.series(4, "picture")
    return {
        "segmentation.dcm": seg,
        "anomaly_map.dcm": pm,
        **{f"pseudo_healthy/{i:04d}.dcm": image for i, image in enumerate(derived, start=1)},
        **{f"picture_{i}.dcm": secondary_capture(p, target, series, i) for i, p in enumerate(pictures, start=1)},
        "report.dcm": structured_report(seg, pm, findings, target),
    }


def _on_source_grid(array: NDArray, affine: NDArray | None, source: SourceSeries) -> Any:
    """`highdicom.Volume` with the axes of the source: (slices, rows, columns)."""
    volume = highdicom.Volume(
        array=np.asarray(array),
        affine=LPS_TO_RAS @ (source.affine if affine is None else np.asarray(affine, dtype=float)),
        coordinate_system="PATIENT",
        frame_of_reference_uid=source.geometry.frame_of_reference_uid,
    )
    try:
        matched = volume.match_geometry(source.geometry, tol=1e-2)
    except (ValueError, RuntimeError) as error:
        raise PhanesInputError(f"has another grid than the results ({error}); give results of this series") from error
    # The header's own numbers, without the rounding of a way through other coordinates.
    return source.geometry.with_array(matched.array)


def _analysed_range(analysed: Any, depth: int) -> tuple[int, int]:
    """First and end (exclusive) of the source's slices with analysed voxels. All slices when that is not known."""
    if analysed is None or not analysed.array.any():
        return 0, depth
    touched = np.flatnonzero(analysed.array.any(axis=(1, 2)))
    return int(touched[0]), int(touched[-1]) + 1


def _save(objects: Mapping[str, Any], folder: Path) -> list[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        for name, one in objects.items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            one.save_as(path)
        shutil.rmtree(folder, ignore_errors=True)
        partial.chmod(0o755)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / name for name in objects]
