"""The packaged bundle, made once, without its TorchScript program."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.release.build import build
from tests.conftest import BUNDLE


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m scripts package --out dist` writes."""
    out = tmp_path_factory.mktemp("package") / "dist"
    build(BUNDLE, out)
    return out


@pytest.fixture(scope="session")
def packaged(dist: Path) -> Path:
    """The packaged bundle's folder."""
    return dist / "phanes_t1w_brain_anomaly"
