"""PHANES, installed: `phanes.analyse` here, the command `phanes` in `__main__`, and the bundle that both run.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Result", "analyse", "bundle"]


def bundle() -> Path:
    """The bundle's folder, made importable: inside of this package, or beside it in a checkout.

    Raises:
        ImportError: another package called `scripts`, the name of the bundle's code, is loaded already.
    """
    here = Path(__file__).resolve().parent
    root = next(folder for folder in (here / "bundle", here.parent / "bundle") if folder.is_dir())
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    import scripts

    if not (root / "scripts").samefile(Path(str(scripts.__file__)).parent):
        raise ImportError(f"PHANES needs its own package 'scripts', but '{scripts.__file__}' is loaded already.")
    return root


@dataclass(frozen=True)
class Result:
    """What PHANES says of one image; arrays on the input's own grid, of the input's shape.

    Attributes:
        anomaly: float32 >= 0, the anomaly map; 0 where not analysed.
        pseudo_healthy: float32, the input's own units.
        mask: uint8, what was filled.
        coarse: float32, the coarse reconstruction.
        label: uint8, the findings' numbers.
        findings: a dictionary a finding, the strongest first; its keys are the columns of findings.csv. Each of its
            `structures` has `structure`, `side` and `share` (0 to 1).
        score: mean of the anomaly map over what was analysed.
        warnings: what to know about this result; empty when all is well.
    """

    anomaly: NDArray[np.float32]
    pseudo_healthy: NDArray[np.float32]
    mask: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    label: NDArray[np.uint8]
    findings: list[dict[str, Any]]
    score: float
    warnings: str


def analyse(image: str | Path | ArrayLike, affine: ArrayLike | None = None, **options: Any) -> Result:
    """Analyse one image as the command does, without writing anything.

    Args:
        image: a file of any accepted kind, a folder with one DICOM series, or an array (X, Y, Z) or (X, Y).
        affine: (4, 4) voxel to world, mm, RAS+ (as nibabel gives it), of an array.
        options: entries of the bundle's inference.json, such as `device="cuda"` or `slices="mid"`.

    Raises:
        PhanesInputError: the image or an option is not usable; one sentence says why.

    Example:
        >>> result = phanes.analyse("head.nii.gz")
        >>> result.anomaly.max(), result.findings
    """
    root = bundle()
    from scripts.pipeline.workflow import analyse_image

    return Result(**analyse_image(root, image, affine, options))
