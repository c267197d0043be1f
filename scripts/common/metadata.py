"""What the meta data of an image say: warnings, spacing, codes, and which slice lies at the trained level."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor


def add_warning(image: MetaTensor, text: str) -> None:
    """Append a sentence to the image's warnings, which end in `summary.csv` and in the report."""
    if text:
        image.meta["warnings"] = "; ".join(filter(None, [str(image.meta.get("warnings", "")), text]))


def slices_at_level(data: Mapping[Hashable, Any], keys: Sequence[str], ref_key: str) -> list[Tensor]:
    """Of each key's (1, H, W, D) the slice nearest to the trained level, by the reference's meta data: (1, 1, H, W)."""
    reference = data[ref_key]
    level = int(reference.meta.get("level_slice", reference.shape[-1] // 2))
    return [torch.as_tensor(data[key])[None, ..., level].detach().cpu().float() for key in keys]


def spacing_of(image: MetaTensor) -> tuple[float, ...]:
    """mm a voxel along H, W, D."""
    return tuple(float(v) for v in torch.linalg.norm(torch.as_tensor(image.affine)[:3, :3], dim=0))


def nifti_codes(image: MetaTensor) -> list[int]:
    """The header's sform and qform codes; zeros for other formats."""
    return [int(image.meta.get(name, 0)) for name in ("sform_code", "qform_code")]
