"""The loop: look for studies, analyse what is new, store the results, note it. Interrupted work goes on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pydicom

from ..common.anonymous import anonymous_name
from ..common.errors import PhanesInputError
from ..pipeline.inference import sentence_of
from .analysis import Fetched
from .archive import Archive, Found, PacsRefusedError, PacsUnreachableError, batches
from .choice import decide, results_in_archive, sorted_for_storing
from .record import ANALYSED, DUE, FAILED, LEFT_OUT, STORED, Records, SeriesRecord, StudyRecord, folder_name
from .settings import Settings

logger = logging.getLogger("phanes.pacs")

UNEXPECTED = "Unexpected "  # how `sentence_of` begins for what is no mistake in the input
Analyse = Callable[[Sequence[Fetched], Path], Mapping[str, str]]


class Watcher:
    """Analyses each study of a PACS once.

    Args:
        settings: of the watch.
        archive: the PACS.
        store: where results go; None is the PACS.
        analyse: see `analysis.Workflow`.
        rules: which series are analysed.
        stop: set from outside. Ends the loop after the current step.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        analyse: Analyse,
        rules: Mapping[str, Any] | None,
        *,
        store: Archive | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.archive = archive
        self.target = store or archive
        self.analyse = analyse
        self.rules = rules
        self.stop = stop or threading.Event()
        self.clock = clock
        self.work = Path(settings.work_dir)
        self.records = Records(self.work / "record")
        self.seen: dict[str, tuple[object, float]] = {}  # study -> what it held, since when

    def run(self, once: bool = False) -> int:
        """Look again and again until stopped.

        Args:
            once: end when no study can be done any more.

        Returns:
            Number of studies that could not be done.

        Raises:
            PhanesInputError: with `once`, when the PACS has been away or has refused too often.
        """
        failed: set[str] = set()
        failures = 0
        while not self.stop.is_set():
            try:
                again = self.look(failed)
            except PhanesInputError as error:
                failures += 1
                if once and failures >= self.settings.attempts:
                    raise
                pause = self.settings.pause(failures)
                logger.warning("%s; again in %.0f s", str(error).rstrip("."), pause)
            else:
                failures = 0
                if once and again is None:
                    break
                pause = max(again - self.clock(), 0.05) if once and again is not None else self.settings.interval_s
            self.stop.wait(pause)
        if self.stop.is_set():
            logger.info("stopped")
        return len(failed)

    def look(self, failed: set[str]) -> float | None:
        """One pass over all studies.

        Args:
            failed: gets the names of the studies that have failed for good.

        Returns:
            When to look again at studies that were not ready, in seconds since 1970; None when there are none.

        Raises:
            PhanesInputError: the PACS is away, or does not list its studies.
        """
        again: list[float] = []
        studies = self.archive.studies(self._query())
        self.seen = {one.uid: self.seen[one.uid] for one in studies if one.uid in self.seen}
        for one in studies:
            if self.stop.is_set():
                break
            due = self._study(one, failed)
            if due is not None:
                again.append(due)
        return min(again, default=None)

    def name(self, uid: str) -> str:
        """The name of a study or series in the log and in the record."""
        return anonymous_name(uid, self.settings.anonymize_key) if self.settings.anonymize else uid

    def _query(self) -> dict[str, str]:
        query = {str(name): str(value) for name, value in self.settings.study_query.items()}
        if self.settings.days:
            first = date.fromtimestamp(self.clock()) - timedelta(days=self.settings.days)
            query["StudyDate"] = f"{first:%Y%m%d}-"
        return query

    def _study(self, study: Found, failed: set[str]) -> float | None:
        """Do what one study needs now. Returns when to look at it again; None when it does not matter."""
        name = self.name(study.uid)
        try:
            record = self.records.read(name) or StudyRecord(name)
        except PhanesInputError as error:
            if name not in failed:
                logger.log(logging.ERROR, "study %s: %s", name, error)
            failed.add(name)
            return None
        if study.instances is not None and study.instances == record.instances:
            return None
        if record.not_before > self.clock():
            return record.not_before
        record.attempts += 1
        try:
            found = [self._counted(study.uid, one) for one in self.archive.series(study.uid)]
            settled = self._settled(study.uid, record, found)
            if settled > self.clock():
                return settled
            self._settled_study(study, record, found, failed)
        except PacsUnreachableError as error:
            # It counts against this study. Otherwise one that never succeeds would block all others.
            self._failed(record, error, failed)
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one study, others must have their turn
            return self._failed(record, error, failed)
        return None

    def _counted(self, study_uid: str, series: Found) -> Found:
        """The series with its number of objects. It is counted where the PACS does not say it."""
        if series.instances is not None or series.modality != self.settings.modality:
            return series
        return replace(series, instances=len(self.archive.instances(study_uid, series.uid)))

    def _settled(self, uid: str, record: StudyRecord, found: Sequence[Found]) -> float:
        """When the study will have been unchanged for long enough. Our own results do not count."""
        ours = self._ours(record)
        now_there = frozenset((one.uid, one.instances) for one in found if self.name(one.uid) not in ours)
        before, since = self.seen.get(uid, (None, 0.0))
        if before != now_there:
            since = self.clock()
            self.seen[uid] = (now_there, since)
        return since + self.settings.settle_s

    @staticmethod
    def _ours(record: StudyRecord) -> set[str]:
        return {uid for one in record.series.values() for uid in one.results}

    def _settled_study(self, study: Found, record: StudyRecord, found: Sequence[Found], failed: set[str]) -> None:
        if self._note_what_is_new(record, found):
            record.attempts = 1
        elif not _unfinished(record):
            # What has come are results of ours or other modalities.
            record.attempts = 0
            self._close(study, record)
            return
        if record.attempts > self.settings.attempts:
            failed.add(record.study)
            return
        record.instances = None
        self.records.write(record)  # the attempt counts first: a study may kill the process, but not for ever
        start = time.monotonic()
        stored = self._work(study, record, found)
        if self.stop.is_set() and _unfinished(record):
            record.attempts -= 1  # interrupted, and not failed
            self.records.write(record)
            return
        record.attempts, record.not_before = 0, 0.0
        self.records.write(record)
        logger.info("study %s: %s in %.0f s", record.study, _summary(record, stored), time.monotonic() - start)
        shutil.rmtree(self._folder(record) / "series", ignore_errors=True)
        if not self.settings.keep_files:
            shutil.rmtree(self._folder(record), ignore_errors=True)
        failed.discard(record.study)
        if any(one.state == FAILED for one in record.series.values()):
            failed.add(record.study)

    def _note_what_is_new(self, record: StudyRecord, found: Sequence[Found]) -> bool:
        """Enter new series, and failed ones with more images. Returns whether there are any."""
        ours = self._ours(record)
        changed = False
        for one in found:
            name = self.name(one.uid)
            if one.modality != self.settings.modality or name in ours:
                continue
            known = record.series.get(name)
            if known is None or (known.state in (FAILED, DUE) and known.instances != one.instances):
                record.series[name] = SeriesRecord(instances=one.instances)
                changed = True
            elif known.state == STORED and known.instances != one.instances:
                logger.warning(
                    "study %s: a series has changed after it was analysed, and is not analysed again", record.study
                )
                known.instances = one.instances
        return changed

    def _close(self, study: Found, record: StudyRecord) -> None:
        """Remember the number of objects of a finished study, so that it need not be asked again."""
        if study.instances is not None and record.instances != study.instances:
            record.instances = study.instances
            self.records.write(record)

    def _work(self, study: Found, record: StudyRecord, found: Sequence[Found]) -> int:
        """Bring each due series to its end, unless stopped. Returns the number of objects stored.

        Raises:
            PhanesInputError: something failed that may succeed the next time.
        """
        here = {self.name(one.uid): one for one in found}
        if any(one.state == DUE for one in record.series.values()):
            wanted = self._decide(study, record, found)
            fetched = []
            for name, note in wanted.items():
                if not self.stop.is_set():
                    fetched.append((name, self._fetch(study, record, here[name], note)))
            if fetched and not self.stop.is_set():
                self._analyse(record, fetched)
        stored = self._store(record)
        for one in record.series.values():
            if one.state == DUE and one.why and not self.stop.is_set():
                raise PhanesInputError(one.why)
        return stored

    def _decide(self, study: Found, record: StudyRecord, found: Sequence[Found]) -> dict[str, str]:
        """Names of the due series to analyse, with the rules' warnings. The others are noted."""
        known = results_in_archive(self.archive, study.uid, found)
        wanted = {}
        images = [one for one in found if self.name(one.uid) in record.series]
        for decision in decide(self.archive, study.uid, images, self.rules):
            name = self.name(decision.series.uid)
            one = record.series[name]
            if one.state != DUE:
                continue
            if decision.series.uid in known:
                one.state, one.why = STORED, "results are in the PACS already"
            elif decision.chosen:
                wanted[name] = decision.warning
            else:
                one.state, one.why = LEFT_OUT, decision.reason
        for name, one in record.series.items():
            if one.state == DUE and name not in wanted:
                one.state, one.why = LEFT_OUT, "no longer in the PACS"
        self.records.write(record)
        return wanted

    def _fetch(self, study: Found, record: StudyRecord, series: Found, note: str) -> Fetched:
        """Fetch the whole series, under a case's name that says nothing of the patient."""
        case = f"series{list(record.series).index(self.name(series.uid)) + 1}"
        folder = self._folder(record) / "series" / folder_name(f"{series.uid} {series.instances}") / case
        if not folder.is_dir():
            partial = folder.with_name(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            count = self.archive.fetch(study.uid, series.uid, partial)
            if not count or (series.instances is not None and count < series.instances):
                raise PacsRefusedError(f"the PACS sent {count} of {series.instances or 'the'} images of a series")
            partial.replace(folder)
        return Fetched(case, folder, note)

    def _analyse(self, record: StudyRecord, fetched: Sequence[tuple[str, Fetched]]) -> None:
        output = self._folder(record) / "results"
        failures = self.analyse([one for _, one in fetched], output)
        for name, one in fetched:
            series, folder = record.series[name], output / one.case / "dicom"
            series.why = failures[one.case]
            if series.why:
                # What is no mistake in the images, such as too little memory, may pass by itself.
                series.state = DUE if series.why.startswith(UNEXPECTED) else FAILED
                continue
            files = sorted_for_storing([path for path in folder.rglob("*") if path.is_file()])
            uids = {str(pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID) for path in files}
            series.state, series.results = ANALYSED, sorted(map(self.name, uids))
            series.files = [path.relative_to(self._folder(record)).as_posix() for path in files]
        self.records.write(record)

    def _store(self, record: StudyRecord) -> int:
        """Store what is analysed. After an interruption the same files go again, so that nothing is there twice."""
        stored = 0
        for one in record.series.values():
            if one.state != ANALYSED or self.stop.is_set():
                continue
            files = [self._folder(record) / file for file in one.files]
            if not all(file.is_file() for file in files):
                one.state, one.files, one.results = DUE, [], []
                one.why = f"results in '{self._folder(record)}' are gone"
                self.records.write(record)
                continue
            # The last one, the segmentation, goes alone: where it is, all others are.
            for batch in [*batches(files[:-1], self.settings.batch), files[-1:]]:
                self.target.store(batch)
            one.state = STORED
            self.records.write(record)
            stored += len(files)
        return stored

    def _failed(self, record: StudyRecord, error: Exception, failed: set[str]) -> float | None:
        """Note and log a failed attempt. Returns when the next one is due; None for never."""
        sentence = sentence_of(error).rstrip(".")
        logger.debug("study %s", record.study, exc_info=error)
        attempts = record.attempts
        over = attempts >= self.settings.attempts
        pause = self.settings.pause(attempts)
        record.not_before = 0.0 if over else self.clock() + pause
        self.records.write(record)
        where = f"study {record.study}: attempt {attempts} of {self.settings.attempts} failed: {sentence}"
        if over:
            failed.add(record.study)
            logger.error("%s; given up until the study changes", where)
            return None
        logger.warning("%s; again in %.0f s", where, pause)
        return record.not_before

    def _folder(self, record: StudyRecord) -> Path:
        return self.work / "studies" / folder_name(record.study)


def _unfinished(record: StudyRecord) -> bool:
    return any(one.state in (DUE, ANALYSED) for one in record.series.values())


def _summary(record: StudyRecord, stored: int) -> str:
    """The state of a study in a few words."""
    states = [one.state for one in record.series.values()]
    before = sum(one.state == STORED and bool(one.why) for one in record.series.values())
    parts = [
        f"{states.count(STORED) - before} series analysed, {stored} objects stored" if states.count(STORED) else "",
        f"{before} with results in the PACS already" if before else "",
        f"{states.count(LEFT_OUT)} left out" if states.count(LEFT_OUT) else "",
        *(f"one cannot be analysed: {one.why.rstrip('.')}" for one in record.series.values() if one.state == FAILED),
    ]
    return "; ".join(filter(None, parts)) or "nothing to analyse"
