"""What the meta data of an image say: warnings, spacing, codes."""

from __future__ import annotations

import torch
from monai.data import MetaTensor


def add_warning(image: MetaTensor, text: str) -> None:
    """Append a sentence to the image's warnings, which end in `summary.csv` and in the report."""
    if text:
        image.meta["warnings"] = "; ".join(filter(None, [str(image.meta.get("warnings", "")), text]))


def spacing_of(image: MetaTensor) -> tuple[float, ...]:
    """mm a voxel along H, W, D."""
    return tuple(float(v) for v in torch.linalg.norm(torch.as_tensor(image.affine)[:3, :3], dim=0))


def nifti_codes(image: MetaTensor) -> list[int]:
    """The header's sform and qform codes; zeros for other formats."""
    return [int(image.meta.get(name, 0)) for name in ("sform_code", "qform_code")]
