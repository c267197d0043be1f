"""Fixtures of the integration tests: a server's own environment, a free port, a process that is surely stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="session")
def environment() -> Path:
    """The virtual environment made from `requirements-NAME.txt`."""
    folder = REPOSITORY / os.environ.get("PHANES_ENVIRONMENT", "nowhere")
    if not (folder / "bin" / "python").exists():
        pytest.fail("No environment for this integration: run it by `make test-integration-NAME`.")
    return folder


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def activated(environment: Path, **variables: str) -> dict[str, str]:
    """This process's variables with the environment activated, as `source bin/activate` does."""
    path = f"{environment.resolve() / 'bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "VIRTUAL_ENV": str(environment.resolve()), "PATH": path, **variables}


@contextmanager
def running(
    command: Sequence[str], url: str, log: Path, variables: Mapping[str, str], cwd: Path, seconds: float = 300
) -> Iterator[subprocess.Popen]:
    """A server in a process group of its own, from its first answer on `url` until the block ends."""
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(variables), cwd=cwd, start_new_session=True
        )
        try:
            _wait_for(url, server, log, seconds)
            yield server
        finally:
            _stop(server)


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"{server.args} ended with status {server.returncode}:\n{log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(url, timeout=10):  # noqa: S310 (a loopback address of the test's own)
                return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{server.args} did not answer {url} within {seconds} s:\n{log.read_text()[-4000:]}")


def _stop(server: subprocess.Popen, seconds: float = 20) -> None:
    """End the whole group: servers start workers of their own."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, signum)
        except ProcessLookupError:
            return
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
