"""Every error and warning that a user can meet, found in the code: `python -m tests.docs.messages` renews the table.

The syntax trees of `scripts` and `phanes` are walked. Nothing is listed by hand.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "bundle" / "docs" / "results" / "messages.md"
COMMAND = "make docs-numbers"

# Calls and exceptions that say something, and where the text stands among the arguments.
SAID = {
    "refused": {"PhanesInputError": 0, "PhanesOutputError": 0, "PacsRefusedError": 0, "PacsUnreachableError": 0,
                "HeadNotAnalysed": 0, "SystemExit": 0, "fail": 0, "error": 0},
    "warning": {"add_warning": 1, "add_note": 1, "_say": 0},
    "log": {"warning": 0, "warn": 0},
    "code": dict.fromkeys(("ValueError", "TypeError", "RuntimeError", "FileNotFoundError", "LookupError", "ImportError",
                           "InvalidDicomError"), 0),
}  # fmt: skip
# Where a part of a message is found: rooms, names that carry it to where it is said, calls that take it.
PART_ROOMS = (
    "phanes",
    "scripts/common",
    "scripts/dicom",
    "scripts/pacs",
    "scripts/pipeline",
    "scripts/space",
    "scripts/training",
)
NO_PARTS = ("scripts/dicom/concepts.py", "scripts/pipeline/thresholds.py")  # texts in DICOM objects; names of values
PARTS = {
    "warning", "warnings", "note", "notes", "reason", "reasons", "why", "hint", "text", "sentence", "error", "advice",
    "more", "gone", "seen", "beside", "unfit", "failed", "counts", "REFUSED", "GONE", "BESIDE_RAW",
}  # fmt: skip
TAKERS = {"Decision", "replace", "note", "passed_over", "notes"}
LOOKED_THROUGH = {"join", "filter", "get", "fromkeys", "list"}
SHORTEST_PART = 4  # words

KINDS = {
    "refused": ("Refused", "The command ends, or the case fails and the others go on."),
    "warning": ("Warnings", "The case is analysed. They stand in `summary.csv`, in the report and in DICOM listings."),
    "log": ("In the log", "The command goes on."),
    "part": (
        "Parts",
        "Reasons and hints that stand within other messages, in `series.csv` or among a case's warnings.",
    ),
    "code": ("In code and configs", "An argument that a component does not take."),
}


class Message(NamedTuple):
    """A message: one of `KINDS`, the file that says it, and its text with `{placeholders}`."""

    kind: str
    file: str
    text: str


def messages(repository: Path = REPOSITORY) -> list[Message]:
    """All messages, sorted."""
    files = [path for room in ("phanes", "scripts") for path in (repository / room).rglob("*.py")]
    found = {message for path in files for message in _of_file(path, path.relative_to(repository).as_posix())}
    return sorted(found, key=lambda message: (list(KINDS).index(message.kind), message.file, message.text))


def table(found: list[Message]) -> str:
    """The page, in Markdown."""
    lines = [
        "# Messages",
        "",
        f"Every error and warning, made from the code by `{COMMAND}`.",
        "A word in braces stands for a file, an option, a value or a number.",
        "A message that begins with a verb is said of a file: its name stands before it.",
    ]
    for kind, (heading, meaning) in KINDS.items():
        lines += ["", f"## {heading}", "", meaning, "", "| message | said in |", "|---|---|"]
        for message in found:
            if message.kind == kind:
                text = " ".join(message.text.split()).replace("|", "\\|")
                lines.append(f"| `` {text} `` | {message.file.removeprefix('scripts/')} |")
    return "\n".join(lines) + "\n"


def _of_file(path: Path, name: str) -> Iterator[Message]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    taken: set[ast.AST] = set()
    for node in ast.walk(tree):
        kind, said = _said(node)
        kind = "refused" if kind == "code" and "slicer" in name else kind  # Slicer shows every error
        if said is not None:
            taken |= set(ast.walk(said))
            yield from (Message(kind, name, text) for text in _texts(said) if _words(text))
    if not name.startswith(PART_ROOMS) or name in NO_PARTS:
        return
    for node in ast.walk(tree):
        if node in taken or not isinstance(node, ast.Constant | ast.JoinedStr) or _inside_a_string(node, above):
            continue
        (text,) = _texts(node)
        if len(text.split()) >= SHORTEST_PART and _words(text) and _is_part(node, above):
            yield Message("part", name, text)


def _said(node: ast.AST) -> tuple[str, ast.expr | None]:
    """What a node says to a user: its kind and the expression of the text."""
    if isinstance(node, ast.Call):
        name = _name(node.func)
        for kind, names in SAID.items():
            place = names.get(name, -1)
            if 0 <= place < len(node.args):
                is_log = kind == "log" or (name == "error" and "log" in ast.unparse(node.func))
                return "log" if is_log else kind, node.args[place]
    raised = node.exc if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
    if raised is not None and raised.args and not any(_name(raised.func) in names for names in SAID.values()):
        return "refused", raised.args[0]  # a class chosen at run time
    if isinstance(node, ast.Assign) and any(_key(target) == "warnings" for target in node.targets):
        return "warning", node.value
    return "", None


def _is_part(node: ast.AST, above: dict[ast.AST, ast.AST]) -> bool:
    """Whether a text is returned, or bound to a name, that goes into a message."""
    while node in above:
        node = above[node]
        if isinstance(node, ast.Call):
            takers = {_name(node.func)} | ({_key(node.func.value)} if isinstance(node.func, ast.Attribute) else set())
            if takers & TAKERS:
                return True
            if not takers & LOOKED_THROUGH:
                return False
        if isinstance(node, ast.keyword) and node.arg in PARTS:
            return True
        if isinstance(node, ast.Return | ast.Yield):
            return True
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return any(_key(name) in PARTS for target in targets for name in _names(target))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return False  # a docstring
        if isinstance(node, ast.stmt):
            return False
    return False


def _names(target: ast.expr) -> list[ast.expr]:
    return list(target.elts) if isinstance(target, ast.Tuple) else [target]


def _inside_a_string(node: ast.AST, above: dict[ast.AST, ast.AST]) -> bool:
    return isinstance(above.get(node), ast.JoinedStr | ast.FormattedValue)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _key(target: ast.expr) -> str:
    """The last name of `a`, `a.b`, `a["b"]`, and of `a[...]` with anything else."""
    if isinstance(target, ast.Subscript):
        key = target.slice
        return str(key.value) if isinstance(key, ast.Constant) else _key(target.value)
    return _name(target)


def _texts(node: ast.expr) -> list[str]:
    """Every text that an expression can have."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else [""]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(v.value) if isinstance(v, ast.Constant) else f"{{{_placeholder(v)}}}" for v in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in _texts(node.left) for right in _texts(node.right)]
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(value)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.Tuple | ast.List):
        return [text for value in node.elts for text in _texts(value)]
    return [f"{{{_placeholder(node)}}}"]


def _placeholder(node: ast.AST) -> str:
    """A short word for what is put in."""
    if isinstance(node, ast.FormattedValue):
        return _placeholder(node.value)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return {"strerror": "reason", "name": _placeholder(node.value)}.get(node.attr, node.attr)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BoolOp):
        return _placeholder(node.values[0])
    if isinstance(node, ast.Call):
        name = _name(node.func)
        if name in ("len", "sum", "int", "abs"):
            return "number"
        if name == "join":
            return _placeholder(node.args[0])
        return name.lstrip("_") or "value"
    if isinstance(node, ast.Subscript | ast.Starred):
        return _placeholder(node.value)
    if isinstance(node, ast.BinOp):
        return "number"
    inner = next(
        (child for child in ast.walk(node) if child is not node and isinstance(child, ast.Name | ast.Attribute)), None
    )
    return _placeholder(inner) if inner is not None else "value"


def _words(text: str) -> bool:
    """Whether a text has words of its own, beside what is put in."""
    kept, depth = "", 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        kept += letter if not depth else ""
    return len([word for word in kept.split() if any(c.isalpha() for c in word)]) >= 2


if __name__ == "__main__":
    TABLE.write_text(table(messages()), encoding="utf-8")
