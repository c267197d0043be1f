"""What the meta data of an image say: warnings, spacing, codes."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray


def add_warning(image: MetaTensor, text: str) -> None:
    """Append a sentence to the image's warnings, which end in `summary.csv` and in the report."""
    add_note(image.meta, text)


def add_note(meta: MutableMapping[str, Any], text: str) -> None:
    """The same, of the meta data that a reader makes."""
    if text:
        meta["warnings"] = "; ".join(filter(None, [str(meta.get("warnings", "")), text]))


def ras_affine(image: MetaTensor) -> NDArray[np.float64]:
    """(4, 4), voxel -> world, RAS, mm; some hosts hand over images whose world is DICOM's (LPS)."""
    affine = np.asarray(image.affine, dtype=float)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS else affine


def spacing_of(image: MetaTensor) -> tuple[float, ...]:
    """mm a voxel along H, W, D."""
    return tuple(float(v) for v in torch.linalg.norm(torch.as_tensor(image.affine)[:3, :3], dim=0))


def nifti_codes(image: MetaTensor) -> list[int]:
    """The header's sform and qform codes; zeros for other formats."""
    return [int(image.meta.get(name, 0)) for name in ("sform_code", "qform_code")]
