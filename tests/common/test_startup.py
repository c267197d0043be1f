"""MONAI imported quickly: without what an analysis does not use, and nothing is hidden afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.common.startup import OPTIMIZERS, OPTIONAL
from tests.conftest import REPOSITORY

QUICKLY = "import sys; from scripts.common.startup import import_monai_quickly; import_monai_quickly(); "


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_what_an_analysis_does_not_use_is_not_loaded() -> None:
    names = sorted({*OPTIONAL, OPTIMIZERS})
    done = python(QUICKLY + f"sys.exit(' '.join(set({names}) & set(sys.modules)) or 0)")
    assert done.returncode == 0, done.stderr


def test_afterwards_all_of_it_can_be_imported() -> None:
    done = python(
        QUICKLY
        + "import matplotlib.pyplot, pandas, requests, scipy.signal, sklearn.metrics, torch.distributed.optim as o; "
        + "from scripts.common.torchvision_shim import make_torchvision_importable as shim; "
        + "shim(); import lpips, torchvision; assert o.ZeroRedundancyOptimizer.__module__.startswith('torch')"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["torchvision", "sklearn"])
def test_a_monai_that_is_loaded_already_stays_whole(name: str) -> None:
    done = python(
        f"import monai, sys; before = {name!r} in sys.modules; "
        + QUICKLY
        + f"assert before == ({name!r} in sys.modules)"
    )
    assert done.returncode == 0, done.stderr
