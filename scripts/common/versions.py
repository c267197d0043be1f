"""Versions of everything that shapes a result."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from .. import __version__

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of this package, of Python and of the installed libraries that shape a result."""
    found = {"PHANES": __version__, "Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
