"""Whatever bytes a file holds: an image, or one sentence. The short form of `make soak-fuzz` (tests/soak)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.common.errors import PhanesInputError
from tests.soak.record import record, recorded
from tests.soak.targets import TARGETS, Workplace, check_sentence, with_checksums

LONG = "PHANES_EXAMPLES" in os.environ  # `make soak-examples`: counted in bundle/docs/soak.json
EXAMPLES = int(os.environ.get("PHANES_EXAMPLES", "60"))  # of each target
LIMIT_MS = 5000


@pytest.fixture(scope="module")
def work() -> Iterator[Workplace]:
    place = Workplace()
    yield place
    place.close()


@cache
def seeds(target: str) -> list[bytes]:
    """The corpus of a target; a few of many files, spread over all."""
    found = list(TARGETS[target][1]())
    return found[:: max(1, len(found) // 25)]


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """A file of the corpus with a few bytes replaced (more often at its beginning), cut off, or something put in."""
    data = bytearray(draw(st.sampled_from(seeds(target))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.one_of(st.integers(0, min(len(data), 400)), st.integers(0, len(data))))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_the_bytes_an_image_or_one_sentence(work: Workplace, target: str) -> None:
    run, count, executions = TARGETS[target][0], EXAMPLES if target in ("png", "nifti") else EXAMPLES // 3, 0

    @settings(
        max_examples=count, deadline=LIMIT_MS, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutated(target))
    def check(data: bytes) -> None:
        nonlocal executions
        executions += 1
        run(work, data)

    check()
    assert executions >= count // 2
    if LONG:
        targets = recorded("examples").get("targets", {}) | {target: executions}
        record("examples", {"executions": sum(targets.values()), "targets": targets})


def test_the_unchanged_corpus_is_read(work: Workplace) -> None:
    """Enough of it, also without PHANES_DATA: else the fuzzers would try nothing but what is refused at the door."""
    for target, least in (("nifti", 5), ("png", 5), ("series", 2), ("finder", 4)):
        run = TARGETS[target][0]
        assert sum(run(work, seed) > 0 for seed in seeds(target)) >= least, target
    assert sum(TARGETS["dicom"][0](work, seed) for seed in seeds("dicom")) >= 2


def test_the_property_can_fail() -> None:
    for text in ("no full stop", "two\nlines.", "a <class 'x'>."):
        with pytest.raises(AssertionError):
            check_sentence(PhanesInputError(text))
    with pytest.raises(AssertionError):
        check_sentence(PhanesInputError("'x.nii' Traceback (most recent call last)."))


def test_repaired_checksums_change_nothing_in_a_good_picture() -> None:
    assert all(with_checksums(seed) == seed for seed in seeds("png"))
