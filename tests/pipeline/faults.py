"""Faults for tests: processes killed at a chosen moment, limits on file size, folders without permission."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

# What Python announces before it changes a folder (sys.audit); os.replace is announced as os.rename.
CHANGES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"})


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below a folder; the lock, which is always empty, counts too.

    `run.json` is left out: it says how long each step took.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


class Moments:
    """Counts the moments at which this process is about to change something below a folder; acts at a chosen one.

    An audit hook cannot be taken away again, so it is switched off instead.
    """

    def __init__(self, folder: Path, at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.prefix, self.at, self.act = str(folder), at, act
        self.count, self.on = 0, False

    def __enter__(self) -> Moments:
        sys.addaudithook(self._hook)
        self.on = True
        return self

    def __exit__(self, *_: object) -> None:
        self.on = False

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.on and event in CHANGES and arguments and str(arguments[0]).startswith(self.prefix):
            if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            self.count += 1
            if self.count == self.at:
                self.act()


def killed_at(moment: int, folder: Path, job: Callable[[], object]) -> bool:
    """Run a job in a forked process that is killed (SIGKILL) at a moment; True when it was, False when it ended well.

    The fork shares this process's imports, so that a run costs no start-up.
    """
    return _was_killed(_forked(job, Moments(folder, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))))


def killed_after(seconds: float, job: Callable[[], object]) -> bool:
    """The same, killed when so many seconds have passed; False when the job was done by then."""
    pid = _forked(job, contextlib.nullcontext())
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.start()
    try:
        return _was_killed(pid)
    finally:
        timer.cancel()


def _forked(job: Callable[[], object], around: contextlib.AbstractContextManager) -> int:
    """The process number of a child that does a job and ends with status 0, or says why not and ends with 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)  # threads of the parent's pools do not live here
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        with around:
            job()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the parent must hear of it
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _was_killed(pid: int) -> bool:
    """Wait for a child: True when it was killed, False when it did its job."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the job failed by itself"
    return False


@contextlib.contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing more fails as on a full disk, by the system's own error."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions count, even where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
