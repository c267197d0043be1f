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
    """Append a clause to the image's warnings. They appear in `summary.csv` and in the report."""
    add_note(image.meta, text)


def add_note(meta: MutableMapping[str, Any], text: str) -> None:
    """The same for the meta data that a reader makes."""
    if text:
        meta["warnings"] = "; ".join(filter(None, [str(meta.get("warnings", "")), text]))


def ras_affine(image: MetaTensor) -> NDArray[np.float64]:
    """(4, 4), voxel -> world, RAS+, mm. Some hosts hand over images whose world is DICOM's (LPS+): these are turned."""
    affine = np.asarray(image.affine, dtype=float)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS else affine


def spacing_of(image: MetaTensor) -> tuple[float, ...]:
    """Size of a voxel along H, W, D, mm."""
    return tuple(float(v) for v in torch.linalg.norm(torch.as_tensor(image.affine)[:3, :3], dim=0))


def nifti_codes(image: MetaTensor) -> list[int]:
    """The header's sform and qform codes; zeros for other formats."""
    return [int(image.meta.get(name, 0)) for name in ("sform_code", "qform_code")]
