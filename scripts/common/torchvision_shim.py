"""Make torchvision importable beside a torch that lacks its compiled operators (a CUDA build beside a CPU torch).

Run as a program, `python scripts/common/torchvision_shim.py`, it does so for good in the interpreter's environment, for
software that imports torchvision by itself. It needs nothing but the standard library and torch.
"""

from __future__ import annotations

import importlib.abc
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

_DECLARED: list[Any] = []  # a library's operators vanish with the object, so it is kept


def make_torchvision_importable() -> None:
    """Declare the two operators without which `import torchvision` fails. Nothing happens when they exist.

    They are declared and not defined: torchvision's networks work, its box operators do not.
    """
    if _DECLARED:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare()


def _declare() -> None:
    import torch  # not at the top: the module is read at every start of an environment it was installed in

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)


class DeclareFirst(importlib.abc.MetaPathFinder):
    """An import hook that finds nothing. It declares the operators when torchvision is about to be imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Called by the import system for every module that is not loaded yet."""
        if fullname == "torchvision" and not _DECLARED:
            _declare()


def install_for_good() -> bool:
    """Put this module beside a torchvision that cannot be imported, with a `.pth` file that calls it.

    Returns:
        Whether that was needed.
    """
    probe = [sys.executable, "-c", "import torchvision"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)  # noqa: S603
    if "operator torchvision::" not in done.stderr:
        return False
    site, name = Path(sysconfig.get_path("purelib")), "phanes_torchvision_shim"
    (site / f"{name}.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    hook = f"import sys, {name}; sys.meta_path.insert(0, {name}.DeclareFirst())\n"
    (site / f"{name}.pth").write_text(hook, encoding="utf-8")
    return True


if __name__ == "__main__":
    print("torchvision shim", "installed" if install_for_good() else "not needed")
