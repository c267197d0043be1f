"""Every error and warning is plain: what is wrong with which file or option, and what to do. All stand in one table."""

from __future__ import annotations

import inspect
import json
import re

from scripts.__main__ import Commands
from tests.conftest import BUNDLE
from tests.docs.messages import COMMAND, TABLE, Message, messages, table

ALL = messages()
LONGEST = 190  # characters, beside what is put in
# Names that a user knows, written as class names are.
KNOWN_NAMES = {
    "DICOMweb", "NIfTI", "FreeSurfer", "TensorBoard", "TorchScript", "SqueezeNet", "ImageNet", "PatchCore", "NaN",
    "MiB", "ImageOrientationPatient",
}  # fmt: skip
CLASS = re.compile(r"\b[A-Z]+[a-z]+[A-Z]\w*|\b\w+(?:Error|Exception)\b")
ROUGH = re.compile(r"\b(?:etc|e\.g|i\.e|please|invalid|illegal|oops)\b|!", flags=re.IGNORECASE)
ENDED_BY = ("{hint}", "{values}", "{n}", "{more}", "{GONE}")  # sentences of their own
# The words a message about a file begins with; the reader puts the file's name before them and a full stop behind.
OF_A_FILE = re.compile(r"(?:holds|has|is|lacks|claims|cannot|unpacks|does) .*[^.]$")


def of_kind(*kinds: str) -> list[Message]:
    return [one for one in ALL if one.kind in kinds]


def options() -> set[str]:
    """Entries of configs and parameters of verbs: names that a user types."""
    names = {name for path in (BUNDLE / "configs").rglob("*.json") for name in json.loads(path.read_text("utf-8"))}
    for verb in (name for name in dir(Commands) if not name.startswith("_")):
        names |= set(inspect.signature(getattr(Commands(), verb)).parameters)
    return names | {"config", "format"}


OPTIONS = options()


def own_words(message: Message) -> str:
    """The text without what is put in."""
    return re.sub(r"\{[^{}]*\}|%s", "", message.text)


def test_the_table_is_up_to_date() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(ALL), f"renew the table: {COMMAND}"


def test_the_walk_finds_what_is_known_to_be_there() -> None:
    """One message of each way in which the code says something."""
    found = {(one.kind, one.file, one.text) for one in ALL}
    for kind, file, text in (
        ("refused", "pipeline/inference.py", "output_dir '{output}' is not writable: choose another."),
        ("refused", "pipeline/readers.py", "is a link that leads nowhere; give the file"),
        ("refused", "reporting/handlers.py", "{failed} of {cases} failed; the reasons are in {reasons}."),
        ("warning", "space/alignment.py", "similarity to the template only {similarity}: check where the findings lie"),
        ("log", "pacs/watcher.py", "%s; given up until the study changes"),
        ("part", "dicom/frames.py", "{number} repeated slices were left out"),
        ("code", "method/filters.py", "sigma is {sigma}, but a Gaussian's standard deviation must be >= 0."),
    ):
        assert (kind, f"scripts/{file}", text) in found, text
    assert len(ALL) > 300


def says_what_to_do(message: Message) -> bool:
    return re.search(r"[:;.] \S|\{(?:more|reasons|values|n|hint)\}", message.text.rstrip(".")) is not None


def begins_well(message: Message) -> bool:
    """With a capital, a quotation, something put in, or an option's name."""
    first = re.match(r"--|['{A-Z0-9]|\w+", message.text)
    return first is not None and (not first[0].islower() or first[0] in OPTIONS)


def test_an_error_is_a_sentence_that_says_what_to_do() -> None:
    errors = [one for one in of_kind("refused") if not of_an_attempt(one)]
    assert [one for one in errors if not says_what_to_do(one)] == []
    sentences = [one for one in errors if not OF_A_FILE.match(one.text)]
    assert [one for one in sentences if not one.text.endswith((".", *ENDED_BY))] == []
    assert [one for one in sentences if not begins_well(one)] == []


def of_an_attempt(message: Message) -> bool:
    """The watcher says of which study, and tries again by itself."""
    return message.file.startswith("scripts/pacs") and message.text.startswith("the ")


def test_a_warning_is_a_clause_among_others() -> None:
    """Semicolons part the warnings of a case."""
    wrong = [one for one in of_kind("warning") if one.text.endswith(".") or ";" in re.sub(r"\([^)]*\)", "", one.text)]
    assert wrong == []


def test_a_message_is_short_and_plain() -> None:
    assert [one for one in ALL if len(own_words(one)) > LONGEST] == []
    assert [one for one in ALL if ROUGH.search(own_words(one))] == []


def test_no_message_names_a_class() -> None:
    named = {one: set(CLASS.findall(own_words(one))) - KNOWN_NAMES for one in ALL}
    assert {one: names for one, names in named.items() if names or "__name__" in one.text} == {}
