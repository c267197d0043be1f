"""Checksums of what a result depends on: data, weights and settings. Results are stored under them."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .files import sha256_of_file

PLAIN = (bool, int, float, str, bytes, type(None))


def fingerprint(*values: Any) -> str:
    """SHA-256 (hex) of any nesting of plain values, arrays, tensors, modules and simple objects.

    Of a module the class, the state dict and the plain settings of all parts count. Of another object it is the class
    and the attributes, of a function the name. So two networks with equal weights and different settings differ.
    """
    digest = hashlib.sha256()
    for value in values:
        _update(digest, value, ())
    return digest.hexdigest()


def code_checksum(package: Path, rooms: Iterable[str]) -> str:
    """SHA-256 (hex) of the code in some folders of the package.

    Comments, docstrings and layout of modules do not count. Other files (atlas, templates) count as they are.
    """
    return fingerprint({
        str(path.relative_to(package)): (
            _instructions(path.read_text(encoding="utf-8")) if path.suffix == ".py" else sha256_of_file(path)
        )
        for room in rooms
        for path in package.joinpath(room).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    })  # fmt: skip


def _instructions(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del node.body[0]
    return ast.dump(tree)


def module_settings(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Class and plain settings of every part of a network, by the part's name. Weights are left out."""
    found = {}
    for name, part in module.named_modules():
        settings = {k: v for k, v in vars(part).items() if isinstance(v, (*PLAIN, tuple, list)) and k[0] != "_"}
        settings.pop("training", None)
        found[name] = {"class": type(part).__qualname__, **settings}
    return found


def choices(module: nn.Module) -> dict[str, Any]:
    """What a network is composed of: component -> class, `component.setting` -> value, as JSON gives them back."""
    found: dict[str, Any] = {}
    for name, settings in module_settings(module).items():
        if "." not in name:
            kind = settings.pop("class")
            found |= {f"{name}.{key}".lstrip("."): value for key, value in settings.items()}
            found |= {name: kind} if name else {}
    return dict(json.loads(json.dumps(found)))


def _update(digest: Any, value: Any, parents: tuple[int, ...]) -> None:
    digest.update(type(value).__qualname__.encode() + b"(")
    if id(value) in parents:
        pass  # an object that holds itself
    elif isinstance(value, PLAIN):
        digest.update(repr(value).encode())
    elif isinstance(value, torch.Tensor):
        _update(digest, value.detach().cpu().contiguous().numpy(), parents)
    elif isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _update(digest, str(key), parents)
            _update(digest, value[key], (*parents, id(value)))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in sorted(value, key=str) if isinstance(value, set | frozenset) else value:
            _update(digest, item, (*parents, id(value)))
    elif isinstance(value, nn.Module):
        _update(digest, value.state_dict(), parents)
        _update(digest, module_settings(value), (*parents, id(value)))
    elif isinstance(value, Path):
        digest.update(str(value).encode())
    elif callable(value) and hasattr(value, "__qualname__"):
        digest.update(value.__qualname__.encode())
    else:
        _update(digest, getattr(value, "__dict__", {}), (*parents, id(value)))
    digest.update(b")")
