"""`make soak-fuzz`: the readers, the case finder and the series selection under a coverage-guided fuzzer (atheris).

    python -m tests.soak.fuzz [TARGET]           all targets or one, with its number of executions; results to soak.json
    python -m tests.soak.fuzz TARGET RUNS SEED   one target in this process
    python -m tests.soak.fuzz TARGET FILE        one input again, without the fuzzer

The same seed and number of runs give the same inputs. A finding (an exception that is not ours, more than 5 s, more
than 2 GB) ends its target with a non-zero status; the input that made it is kept below the folder FINDINGS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = {"png": 100_000, "nifti": 80_000, "dicom": 16_000, "series": 4_000, "finder": 8_000}
SEED, SECONDS, MEGABYTES, LONGEST = 8, 5, 2048, 1 << 15
# Whose branches guide the fuzzer. Not highdicom's: it searches its tables of attributes in loops of 100,000 steps.
INSTRUMENTED = {
    "nifti": ["scripts", "nibabel"],
    "png": ["scripts", "PIL"],
    "dicom": ["scripts", "pydicom"],
    "series": ["scripts", "pydicom"],
    "finder": ["scripts"],
}
FINDINGS = Path("runs/fuzz")


def seeds_of(target: str, folder: Path) -> int:
    """Write a target's corpus into a folder; how many files that are."""
    from tests.soak.targets import TARGETS

    seeds = list(TARGETS[target][1]())
    for index, seed in enumerate(seeds):
        (folder / f"{index:04d}").write_bytes(seed)
    return len(seeds)


def fuzz(target: str, runs: int, seed: int) -> None:
    """Fuzz one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED[target]):
        from tests.soak.targets import TARGETS, Workplace
    import torch

    torch.set_num_threads(1)
    work, run = Workplace(), TARGETS[target][0]
    FINDINGS.mkdir(parents=True, exist_ok=True)
    # The fuzzer adds what reaches new code to the first folder; it goes with the workplace's parent.
    corpus = Path(tempfile.mkdtemp(prefix="phanes-corpus-"))
    seeds_of(target, corpus)
    options = [
        f"-runs={runs}", f"-seed={seed}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LONGEST}",
        f"-artifact_prefix={FINDINGS}/{target}-", "-print_final_stats=1", "-verbosity=1", "-report_slow_units=5",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: run(work, data) and None)
    atheris.Fuzz()


def again(target: str, file: str) -> None:
    """Run one input."""
    from tests.soak.targets import TARGETS, Workplace

    work = Workplace()
    try:
        print(TARGETS[target][0](work, Path(file).read_bytes()), "images")
    finally:
        work.close()


def statistics(log: str) -> dict[str, int]:
    """What libFuzzer says at its end."""
    found = dict(re.findall(r"stat::(\w+):\s+(\d+)", log))
    covered = re.findall(r"cov: (\d+)", log)
    return {
        "executions": int(found.get("number_of_executed_units", 0)),
        "slowest_seconds": int(found.get("slowest_unit_time_sec", 0)),
        "peak_megabytes": int(found.get("peak_rss_mb", 0)),
        "coverage_at_start": int(covered[0]) if covered else 0,
        "coverage_at_end": int(covered[-1]) if covered else 0,
    }


def all_targets(runs: dict[str, int]) -> int:
    """Each target in a process of its own; the number of those with a finding."""
    from tests.soak.record import record, recorded

    failed = 0
    for target, count in runs.items():
        started = time.monotonic()
        command = [sys.executable, "-m", "tests.soak.fuzz", target, str(count), str(SEED)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        result = statistics(done.stderr) | {"seconds": round(time.monotonic() - started)}
        if done.returncode != 0 or result["executions"] < count:
            failed += 1
            print(f"{target}: a finding (exit status {done.returncode})\n{done.stderr[-4000:]}", file=sys.stderr)
        else:
            record("fuzz", summary(recorded("fuzz").get("targets", {}) | {target: result}))
    return failed


def summary(targets: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What the targets give together."""
    return {
        "executions": sum(result["executions"] for result in targets.values()),
        "seconds_limit": SECONDS,
        "megabytes_limit": MEGABYTES,
        "seed": SEED,
        "slowest_seconds": max(result["slowest_seconds"] for result in targets.values()),
        "peak_megabytes": max(result["peak_megabytes"] for result in targets.values()),
        "targets": targets,
    }


def main(words: list[str]) -> int:
    """See the module's text."""
    if len(words) == 3:
        fuzz(words[0], int(words[1]), int(words[2]))
    if len(words) == 2:
        again(*words)
        return 0
    share = float(os.environ.get("FUZZ_SHARE", "1"))
    return all_targets({name: max(1, int(RUNS[name] * share)) for name in words or RUNS})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
