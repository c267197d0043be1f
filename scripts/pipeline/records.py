"""The records in an output folder, one a case with checksums. A run can be interrupted at any moment.

`<output_dir>/.phanes/` holds

- `<case>.json` for every case that ended: its row of the summary, the checksums of its input, files and settings;
- the lock that keeps a second run out;
- `partial/`, where results are written before they are renamed.

Nothing in it depends on time or machine: the same run leaves the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from ..common.cli import fail
from ..common.errors import PhanesInputError, PhanesOutputError
from ..common.files import sha256_of_file, write_atomically
from ..common.fingerprint import code_checksum, fingerprint, module_settings
from ..common.names import one_line
from ..common.processes import process_rank
from ..common.sources import changed_while_read, signature, source_checksum
from ..common.versions import versions
from .folders import RECORDS
from .results import remove_files, replaced_together, result_names
from .summary import CaseResult

PACKAGE = Path(__file__).resolve().parents[1]
ROOMS = ("common", "method", "space", "dicom", "pipeline", "reporting")  # whose code a result depends on


class CaseRecords:
    """The records of an output folder.

    Args:
        output_dir: folder of the results.
        settings: whatever a result depends on besides its input: transforms, network (without its weights), checksum of
            the weights, threshold, which files to write. Versions of the libraries and the code of `ROOMS` are added.
    """

    def __init__(self, output_dir: str, settings: Mapping[str, Any]) -> None:
        self.output_dir = Path(output_dir)
        self.folder = self.output_dir / RECORDS
        self.partial = self.folder / "partial"
        plain = {k: module_settings(v) if isinstance(v, nn.Module) else v for k, v in settings.items()}
        self.settings = fingerprint(plain, versions(), code_checksum(PACKAGE, ROOMS))
        self.lock = FileLock(self.folder / "lock")

    def open(self) -> None:
        """Keep other runs out of the folder, and remove what an interrupted run left.

        The first of several processes does so for all.

        Raises:
            SystemExit: one sentence on the command line (`PhanesInputError` elsewhere): another run is writing here, or
                nothing can be written.
        """
        if process_rank() > 0:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
            shutil.rmtree(self.partial, ignore_errors=True)
        except Timeout:
            fail(f"output_dir '{self.output_dir}' is in use by another run: wait for it, or choose another output_dir.")
        except OSError as error:
            fail(f"output_dir '{self.output_dir}' cannot be written ({error.strerror}): choose another.")

    def close(self) -> None:
        """Let other runs in."""
        if process_rank() > 0:
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        self.lock.release(force=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the system's error about a full or read-only disk into one sentence.

        Raises:
            PhanesOutputError: the block raised an `OSError`.
        """
        try:
            yield
        except OSError as error:
            raise PhanesOutputError(
                f"Results cannot be written to output_dir '{self.output_dir}' ({error.strerror or error}): mend that "
                "and run the same command again; the cases that are finished stay."
            ) from error

    def replace(self, item: Mapping[str, Any], result: CaseResult, seen: str, write: Callable[[Path], None]) -> None:
        """Have a case's files written into a temporary folder, move them into place, and note their checksums.

        Args:
            item: the case, as `find_cases` gives it.
            result: its row of the summary.
            seen: `signature` of its input before that was read.
            write: gets the temporary folder.

        Raises:
            PhanesInputError: the input changed meanwhile.
            PhanesOutputError: the files cannot be written.
        """
        case = result.case
        with self.writing():
            self._path(case).unlink(missing_ok=True)
            with replaced_together(self.output_dir / case, result_names(case), self.partial) as partial:
                write(partial)
                written = sorted(path for path in partial.rglob("*") if path.is_file())
                files = {path.relative_to(partial).as_posix(): sha256_of_file(path) for path in written}
                source = self._checksum(item, seen)
            self._note(result, source, files)

    def failed(self, result: CaseResult) -> None:
        """Remove what an earlier run may have left of a failed case, and note its row. The next run tries it again.

        Raises:
            PhanesOutputError: the row cannot be written.
        """
        with self.writing():
            self._path(result.case).unlink(missing_ok=True)
            remove_files(self.output_dir / result.case, result_names(result.case))
            self._note(result, "", {})

    def finished(self, item: Mapping[str, Any]) -> bool:
        """True when the case has a whole result of this very input under these very settings."""
        record = self._read(item["case"])
        if (
            record is None
            or record["result"].status != "ok"
            or record["result"].source not in ("", one_line(str(item["image"])))
        ):
            return False
        folder = self.output_dir / item["case"]
        try:
            return record["source"] == source_checksum(item) and all(
                sha256_of_file(folder / name) == checksum for name, checksum in record["files"].items()
            )
        except OSError:
            return False

    def unfinished(self, cases: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The cases that have to be analysed. The results of the others stay."""
        return [item for item in cases if not self.finished(item)]

    def results(self, cases: Iterable[Mapping[str, Any]]) -> list[CaseResult]:
        """The rows of all cases that have ended under these settings, in the cases' order."""
        records = (self._read(item["case"]) for item in cases)
        return [record["result"] for record in records if record is not None]

    def files(self, case: str) -> dict[str, str]:
        """The files of a case with a result under these settings, and their SHA-256. Empty for other cases."""
        record = self._read(case)
        return {} if record is None else dict(record["files"])

    def _read(self, case: str) -> dict[str, Any] | None:
        """A case's record under these settings; None when there is none to be read."""
        try:
            record = json.loads(self._path(case).read_text(encoding="utf-8"))
            record["result"] = CaseResult(**record["result"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if record.get("settings") == self.settings else None

    def _note(self, result: CaseResult, source: str, files: Mapping[str, str]) -> None:
        record = {"result": asdict(result), "settings": self.settings, "source": source, "files": files}
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(self._path(result.case), lambda partial: partial.write_text(text, encoding="utf-8"))

    @staticmethod
    def _checksum(item: Mapping[str, Any], seen: str) -> str:
        """The input's checksum, if it has not changed since it was read."""
        try:
            checksum = source_checksum(item)
        except OSError:
            checksum = ""
        if not checksum or signature(item) != seen:
            raise PhanesInputError(changed_while_read(item["image"]))
        return checksum

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}.json"
