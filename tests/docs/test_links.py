"""Every link of every page leads somewhere: files are there, and so are the headings in them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, REPOSITORY, name_of, prose

LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of the headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(page), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        linked = (page.parent / file).resolve() if file else page
        inside = linked == REPOSITORY or REPOSITORY in linked.parents
        if not linked.exists() or not inside or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def test_the_pages_that_people_look_for_are_linked_from_the_readme() -> None:
    linked = set(LINK.findall(prose(REPOSITORY / "README.md")))
    for page in (REPOSITORY / "bundle" / "docs").glob("*.md"):
        assert f"bundle/docs/{page.name}" in {target.partition("#")[0] for target in linked}, page.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_speak_of_no_single_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|root|work|Users|mnt)/", text)
    assert "\t" not in text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_an_entry_stands_in_the_config_that_the_page_names_beside_it(page: Path) -> None:
    """`entry`, `other` in [`file.json`](...)."""
    wrong = []
    for names, target in re.findall(r"((?:`\w+`(?:, )?)+) in \[`[\w/]+\.json`\]\(([^)]+\.json)\)", prose(page)):
        text = (page.parent / target).read_text(encoding="utf-8")
        wrong += [f"{name} in {target}" for name in re.findall(r"\w+", names) if f'"{name}":' not in text]
    assert not wrong


def test_pages_are_short() -> None:
    """Words as `wc -w` counts them."""
    pages = [page for page in PAGES if "results" not in page.parts]
    words = {name_of(page): len(page.read_text(encoding="utf-8").split()) for page in pages}
    limits = {"README.md": 800, "bundle/docs/README.md": 1500, "bundle/docs/performance.md": 800}
    assert {name: count for name, count in words.items() if count > limits.get(name, 1000)} == {}
    assert sum(words.values()) <= 15_000
