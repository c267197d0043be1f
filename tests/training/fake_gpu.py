"""A GPU that is not there: tensors without data that know their device, and a guard that names what would wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_impls import op_implementations_dict
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

# Forks of a process that has never differentiated: the engine counts its devices once.
CLEAN = get_context("forkserver")
CLEAN.set_forkserver_preload(["scripts.training.engines", "tests.training.fake_gpu"])
GPU = "fakegpu:0"  # a build without CUDA cannot differentiate on a device of that name


class Backend(_DummyBackendModule):
    """What torch asks a device's module for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """As a GPU's."""
        return [torch.bfloat16]


class NoWaiting(TorchDispatchMode):
    """Refuses operations that mix devices, numbers in tensors on the host included, or copy from one to the other.

    `FakeTensorMode` itself refuses what needs a tensor's values: `item`, `nonzero`, `float`, a tensor as a condition.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.check(func, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        self.check(func, (args, kwargs, result))
        return result

    @staticmethod
    def check(func: Any, values: Any) -> None:
        devices = {t.device.type for t in tree_leaves(values) if isinstance(t, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{func} has tensors on {' and '.join(sorted(devices))}")


def _apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters: fake ones can be neither changed in place nor swapped."""
    for child in module.children():
        _apply(child, function)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(function(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                buffer.constant = None  # a known value would really be moved
                module._buffers[name] = function(buffer)
    return module


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within it every new tensor is fake and modules can be moved to `GPU`; what is judged runs in `NoWaiting`."""
    _setup_privateuseone_for_python_backend(GPU.partition(":")[0], Backend())
    without_data = {
        torch.ops.aten.copy_.default: lambda mode, function, destination, *rest, **options: destination,
        torch.ops.aten._fused_adam_.tensor_lr: lambda *arguments, **options: None,
    }
    with patch.dict(op_implementations_dict, without_data), patch.object(nn.Module, "_apply", _apply), FakeTensorMode():
        yield


def _said(check: Callable[..., None], arguments: tuple) -> str:
    try:
        check(*arguments)
    except Exception as error:  # noqa: BLE001 - what torch raises cannot always be sent to another process
        return f"{type(error).__name__}: {error}"
    return ""


def on_fake_gpu(check: Callable[..., None], *arguments: object) -> str:
    """Run a check in a process of its own, for the device stays registered in it -> its error; empty for none."""
    with CLEAN.Pool(1) as pool:
        return pool.apply(_said, (check, arguments))
