"""Lets torchvision be imported beside a torch without its compiled operators (the index's CUDA build, a CPU torch)."""

from __future__ import annotations

import torch

_DECLARED: list[torch.library.Library] = []  # a library's operators vanish with the object, so it is kept


def make_torchvision_importable() -> None:
    """Declare the two operators whose absence makes `import torchvision` fail; nothing happens when they exist.

    Only the declarations are made: torchvision's network definitions work, its box operators do not.
    """
    if _DECLARED:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
