"""Versions of everything that shapes a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from . import __version__

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom")


def versions() -> dict[str, str]:
    """Versions of this bundle's package, of Python and of the libraries that shape a result."""
    found = {"PHANES": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
