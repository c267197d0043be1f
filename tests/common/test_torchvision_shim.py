"""torchvision's network definitions can be imported, also where its compiled operators are missing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_torchvision_and_lpips_import_in_a_fresh_interpreter():
    program = (
        "from scripts.common.torchvision_shim import make_torchvision_importable as make\n"
        "make(); make()\n"
        "import lpips, torchvision\n"
        "assert len(torchvision.models.squeezenet1_1(weights=None).features) == 13"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
