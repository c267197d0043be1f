"""`make soak-audit`: known vulnerabilities of the pinned packages (pip-audit, which asks the package index).

Ends with a non-zero status for a finding that is not argued in ARGUED, and when the index does not answer: no answer is
not a clean bill.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.soak.record import record

REPOSITORY = Path(__file__).resolve().parents[2]
# Identifier -> why it does not matter here; each is argued in bundle/docs/reliability.md too.
ARGUED: dict[str, str] = {}
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", flags=re.MULTILINE)


def pins() -> dict[str, str]:
    """Name -> version of every package that requirements.txt pins."""
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return {name.lower(): version for name, version in PIN.findall(text)}


def summary(dependencies: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and findings from pip-audit's JSON."""
    findings = {
        vulnerability["id"]: f"{dependency['name']} {dependency['version']}"
        for dependency in dependencies
        for vulnerability in dependency.get("vulns", [])
    }
    return {
        "packages": len(dependencies),
        "unanswered": sum("skip_reason" in dependency for dependency in dependencies),
        "findings": findings,
        "not_argued": sorted(set(findings) - set(ARGUED)),
    }


def main() -> int:
    """Audit, record, and judge."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"{name}=={version}\n" for name, version in sorted(pins().items())))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        result = summary(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        print(done.stderr[-2000:], file=sys.stderr)
        result = summary([]) | {"packages": len(pins()), "unanswered": len(pins())}
    record("audit", result)
    return 1 if result["not_argued"] or result["unanswered"] else 0


if __name__ == "__main__":
    sys.exit(main())
