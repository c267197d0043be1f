"""What the watcher has done, on disk: a small JSON file a study.

Each file is replaced as a whole and flushed. A killed process, or a power cut, leaves the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..common.errors import PhanesInputError
from ..common.files import write_atomically

# States of a series. DUE: analysed next. ANALYSED: results lie on disk, to be stored. The others: done.
DUE, ANALYSED, STORED, LEFT_OUT, FAILED = "due", "analysed", "stored", "left out", "failed"


@dataclass
class SeriesRecord:
    """One series.

    Attributes:
        state: due, analysed, stored, left out (by the rules) or failed (cannot be analysed as it is).
        instances: number of its objects when it was last looked at.
        files: of the results, below the study's folder; known once analysed.
        results: Series Instance UIDs of the results.
        why: a sentence, without names.
    """

    state: str = DUE
    instances: int | None = None
    files: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    why: str = ""


@dataclass
class StudyRecord:
    """One study.

    Attributes:
        study: its UID, or the checksum that stands for it.
        instances: of the whole study when nothing was left to do; None while there is something.
        attempts: how often it was begun since it last succeeded or changed.
        not_before: time (seconds since 1970) of the next attempt.
        series: UID (or checksum) -> its record.
    """

    study: str
    instances: int | None = None
    attempts: int = 0
    not_before: float = 0.0
    series: dict[str, SeriesRecord] = field(default_factory=dict)


class Records:
    """The folder of these files.

    Args:
        folder: made when missing.

    Raises:
        PhanesInputError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PhanesInputError(f"work_dir '{folder}' cannot be made ({error.strerror}): choose another.") from error

    def read(self, study: str) -> StudyRecord | None:
        """The record of a study; None when there is none.

        Raises:
            PhanesInputError: the file cannot be read, or is no record.
        """
        path = self._path(study)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            series = {uid: SeriesRecord(**one) for uid, one in entries.pop("series").items()}
            return StudyRecord(**entries, series=series)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PhanesInputError(
                f"the record '{path}' cannot be read ({error}): delete it; results in the PACS are recognised."
            ) from error

    def write(self, record: StudyRecord) -> None:
        """Replace the record of a study.

        Raises:
            PhanesInputError: it cannot be written.
        """
        text = json.dumps(asdict(record), indent=1)

        def flushed(partial: Path) -> None:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

        path = self._path(record.study)
        try:
            write_atomically(path, flushed)
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise PhanesInputError(
                f"the record '{path}' cannot be written ({error.strerror}): check the disk."
            ) from error

    def _path(self, study: str) -> Path:
        return self.folder / f"{folder_name(study)}.json"


def folder_name(uid: str) -> str:
    """A safe file name for a UID from elsewhere, which might hold anything."""
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:32]
