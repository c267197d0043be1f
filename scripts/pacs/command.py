"""`python -m scripts watch`: the watcher as a program, with a log, a lock, and an orderly end."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from ..common.errors import PhanesInputError
from ..dicom.selection import SeriesSelection
from .analysis import Workflow
from .archive import Archive
from .settings import Settings, read_settings
from .watcher import Watcher

logger = logging.getLogger("phanes.pacs")


def open_archive(url: str, settings: Settings) -> Archive:
    """The archive of a URL: `http(s)://...` is DICOMweb, `dicom://AE_TITLE@host:port` a DICOM node.

    Raises:
        PhanesInputError: the URL is neither, or the package for it is not installed.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme in ("http", "https") and parts.hostname:
        from .dicomweb import DicomWeb  # the package behind it may be missing

        return DicomWeb(url, settings.headers, settings.timeout_s)
    if parts.scheme == "dicom" and parts.hostname and parts.username and port:
        from .node import DicomNode

        return DicomNode(parts.hostname, port, parts.username, settings.ae_title, settings.timeout_s)
    # Not quoted: a URL may hold a password.
    raise PhanesInputError(
        "pacs (or store) names no PACS: give https://host/dicom-web (DICOMweb) or dicom://AE_TITLE@host:port."
    )


def watch(
    pacs: str | None = None,
    store: str | None = None,
    once: bool = False,
    work_dir: str | None = None,
    days: int | None = None,
    settle_s: float | None = None,
    anonymize: bool | None = None,
    keep_files: bool | None = None,
    inference: dict[str, Any] | None = None,
    config: str = "",
    bundle_root: str = "bundle",
) -> None:
    """Analyse new T1w head series of a PACS, once each, and store the results there, until SIGTERM or Ctrl-C.

    Args:
        pacs: https://host/dicom-web (DICOMweb), or dicom://AE_TITLE@host:port.
        store: where results go, in the same form; default: the PACS itself.
        once: end when nothing is left to do; exit status 1 when a study could not be done.
        work_dir: the record of what was done, and the files in work.
        days: age of the oldest study that is looked at; 0 for all.
        settle_s: a study is taken when nothing has come to it for so many seconds.
        anonymize: log and record checksums instead of UIDs.
        keep_files: leave the results in the work folder, too.
        inference: overrides of entries of inference.json, such as "{'slices':'mid'}".
        config: JSON with all settings; default: BUNDLE_ROOT/configs/pacs.json.
        bundle_root: the bundle's folder.
    """
    options = {name: value for name, value in locals().items() if name not in ("once", "config", "bundle_root")}
    configs = Path(bundle_root) / "configs"
    settings = read_settings(config or configs / "pacs.json", options)
    rules = SeriesSelection(configs / "dicom_series.json").rules
    archive = open_archive(settings.pacs, settings)
    target = open_archive(settings.store, settings) if settings.store else None
    stop = threading.Event()
    watcher = Watcher(settings, archive, Workflow(bundle_root, settings.inference), rules, store=target, stop=stop)
    _log_to(sys.stderr)
    _stop_on_signals(stop)
    try:
        with FileLock(Path(settings.work_dir) / "lock", timeout=0):
            failed = watcher.run(once)
    except Timeout as error:
        raise PhanesInputError(
            f"work_dir '{settings.work_dir}' is in use by another watcher: stop it, or choose another."
        ) from error
    if once and failed:
        raise PhanesInputError(f"{failed} studies could not be done; the log above says why.")


def _log_to(stream: Any) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    for noisy in ("pynetdicom", "dicomweb_client", "highdicom"):  # they quote what comes over the wire
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def _stop_on_signals(stop: threading.Event) -> None:
    """The first SIGTERM or SIGINT ends the watch after the current step, the second at once."""

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        logger.info("asked to stop")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
