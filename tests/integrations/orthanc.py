"""Orthanc, a real PACS, in a network of the test's own: it listens on all interfaces, whatever is configured."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integrations.conftest import free_port, running

CLONE_NEWNET = 0x40000000
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and the processes it starts, in a network of their own, in which there is nothing but loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as outside:
        if libc.unshare(CLONE_NEWNET):
            pytest.fail(f"No network namespace ({os.strerror(ctypes.get_errno())}): run the integration tests as root.")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
            yield
        finally:
            assert libc.setns(outside.fileno(), CLONE_NEWNET) == 0


class Orthanc:
    """The server: `url` of its DICOMweb service, `node` of its DICOM one; it keeps its data over a restart.

    Args:
        folder: of its data.
    """

    def __init__(self, folder: Path) -> None:
        if not shutil.which("Orthanc") or not PLUGIN.is_file():
            pytest.fail("No Orthanc: run tests/integrations/setup_pacs.sh.")
        self.folder = folder
        self.http, self.port = free_port(), free_port()
        self.rest = f"http://127.0.0.1:{self.http}"
        self.url = f"{self.rest}/dicom-web"
        self.node = f"dicom://ORTHANC@127.0.0.1:{self.port}"
        self.stack = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self.configuration = folder / "orthanc.json"
        self.configuration.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [str(PLUGIN)],
                    "HttpPort": self.http,
                    "DicomPort": self.port,
                    "DicomAet": "ORTHANC",
                    "DicomScpTimeout": 300,
                    "DicomCheckCalledAet": True,
                    "DicomAlwaysAllowFind": True,
                    "DicomAlwaysAllowGet": True,
                    "AuthenticationEnabled": False,
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                }
            )
        )

    def start(self) -> None:
        """From now until `stop`."""
        command = ["Orthanc", str(self.configuration)]
        log = self.folder / "orthanc.log"
        self.stack.enter_context(running(command, f"{self.rest}/system", log, os.environ, self.folder, seconds=60))

    def stop(self) -> None:
        """End it, as a machine that is shut down does."""
        self.stack.close()

    def store(self, folder: Path) -> None:
        """Give it the files of a folder, by its own interface."""
        for path in sorted(folder.glob("*.dcm")):
            requests.post(f"{self.rest}/instances", data=path.read_bytes(), timeout=60).raise_for_status()

    def qido(self, path: str, **query: str) -> list[dict[str, Any]]:
        """What a search gives, as DICOM JSON."""
        answer = requests.get(
            f"{self.url}/{path}", params=query, headers={"Accept": "application/dicom+json"}, timeout=60
        )
        answer.raise_for_status()
        return list(answer.json())

    def file(self, sop_uid: str) -> bytes:
        """An object as the server would send it."""
        found = requests.post(f"{self.rest}/tools/lookup", data=sop_uid, timeout=60).json()
        assert [one["Type"] for one in found] == ["Instance"], sop_uid
        answer = requests.get(f"{self.rest}{found[0]['Path']}/file", timeout=60)
        answer.raise_for_status()
        return answer.content
