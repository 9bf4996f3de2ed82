"""From a claim's name to its outcome, over as many processes as are wanted."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from alignlab import datasets
from alignlab.errors import AlignlabError, InputError, MissingError
from alignlab.experiments._base import Claim, Setting
from alignlab.experiments._catalogue import Entry, digest_of_sources, found
from alignlab.experiments._check import Check
from alignlab.experiments._hardware import hardware
from alignlab.experiments._outcome import (
    FAILED,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    Outcome,
)
from alignlab.experiments._results import write_results
from alignlab.experiments._runs import (
    Job,
    file_name,
    is_done,
    joined,
    load,
    plain,
    read,
    run,
    run_of,
    seconds_of,
    workers,
)
from alignlab.experiments._sizes import changed
from alignlab.locks import Lock

__all__ = ["folder_of", "reproduce", "reproduce_many"]

Progress = Callable[[str, int, int], None]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a system says of a disk that takes no more."""


@dataclass(frozen=True)
class Prepared:
    """A claim whose cases wait to be run."""

    entry: Entry
    claim: Claim
    setting: Setting
    blank: Outcome
    folder: Path
    lock: Lock
    jobs: tuple[Job, ...]


def folder_of(
    entry: Entry, output: Path, *, full: bool, changes: Mapping[str, Any] | None = None
) -> Path:
    """Return where the files of a claim go; sizes with changes have a folder of their own."""
    size = "full" if full else "fast"
    name = f"{size}_{file_name(changes)}" if changes else size
    return output / entry.paper / entry.claim / name


def reproduce(
    key: str,
    *,
    full: bool = False,
    changes: Mapping[str, Any] | None = None,
    output: Path,
    jobs: int = 1,
    device: str = "cpu",
    force: bool = False,
    progress: Progress = lambda _label, _done, _total: None,
) -> Outcome:
    """Run a claim and leave its numbers, figure, caption and outcome in a folder of its own.

    Cases that are there already from the same code and setting are not run again, so that what
    was cut off goes on, to the same bits. The number of processes changes nothing either. The
    claim's folder is held meanwhile, so that no other call works in it.

    Args:
        key: ``paper:claim`` or an identity such as ``R4``.
        full: The work's own sizes instead of those that take a minute.
        changes: Sizes in place of those of the setting, by name; results then have a folder of
            their own, and the outcome says what was changed.
        output: Folder; files go to ``paper/claim/fast`` or ``paper/claim/full`` within.
        jobs: Processes, each on one thread; one runs the cases in this process.
        device: Where tensors live.
        force: Whether cases that are there are run again.
        progress: Called with the claim and how many of its cases are done.

    Returns:
        What came out; a run that raises an error has the status ``failed: ...``. Where that was a
        process that was killed or the disk, the files of an earlier call stay.

    Raises:
        MissingError: No such claim, or its data set is not there.
        InputError: The name means several claims, the claim has no full setting, a change names
            no size of it, or its folder is in use.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     reproduce("N3", output=Path(folder)).status
        'reproduced'
    """
    entries = found(key)
    if len(entries) > 1:
        message = f"{key!r} means {len(entries)} claims; name one, such as {entries[0].key}."
        raise InputError(message)
    prepared = _prepared(entries[0], output, full=full, changes=changes or {}, device=device)
    executed = _executed([prepared], jobs=jobs, force=force, progress=progress)
    with prepared.lock, executed as waiting:
        return _finished(prepared, waiting[0], progress)


def reproduce_many(
    entries: Sequence[Entry],
    *,
    full: bool = False,
    changes: Mapping[str, Any] | None = None,
    output: Path,
    jobs: int = 1,
    device: str = "cpu",
    force: bool = False,
    progress: Progress = lambda _label, _done, _total: None,
) -> Iterator[Outcome]:
    """Run claims one after the other, and yield each outcome as it is there.

    Their cases share the processes, so that none idles while another claim ends. A claim that
    cannot be run, such as one whose folder is in use, has the status ``not run: ...``; neither
    that nor a failure stops the others. All folders are held until the last claim has ended.

    Args:
        entries: The claims.
        full: As for ``reproduce``, like all below.
        changes: Sizes in place of those of the setting.
        output: Folder.
        jobs: Processes.
        device: Where tensors live.
        force: Whether cases that are there are run again.
        progress: Called with the claim and how many of its cases are done.
    """
    ready: list[Prepared | Outcome] = []
    with ExitStack() as held:
        for entry in entries:
            try:
                prepared = _prepared(entry, output, full=full, changes=changes or {}, device=device)
                held.enter_context(prepared.lock)
                ready.append(prepared)
            except AlignlabError as error:
                ready.append(replace(_blank(entry, full=full), status=f"{NOT_RUN}: {error}"))
            except Exception as error:
                ready.append(replace(_blank(entry, full=full), status=_failure(error, output)))
        able = [each for each in ready if isinstance(each, Prepared)]
        executed = _executed(able, jobs=jobs, force=force, progress=progress)
        rest = iter(held.enter_context(executed))
        for each in ready:
            if isinstance(each, Prepared):
                yield _finished(each, next(rest), progress)
            else:
                yield each


def _prepared(
    entry: Entry, output: Path, *, full: bool, changes: Mapping[str, Any], device: str
) -> Prepared:
    """Return what a claim has to run, or refuse it."""
    claim = load(entry)
    own = claim.full if full else claim.fast
    if own is None:
        message = f"{entry.key} has no full setting; its fast one is all there is."
        raise InputError(message)
    changes = changed(entry.key, own, changes)
    setting = {**own, **changes}
    data = [each for name in claim.full_data if full for each in _data(entry, name)]
    blank = replace(_blank(entry, full=full, claim=claim), changed=changes, data=tuple(data))
    folder = folder_of(entry, output.absolute(), full=full, changes=changes)
    code = " ".join([blank.alignlab, blank.torch, blank.code, *data])
    cases = claim.cases(setting)
    if not cases:
        sizes = ", ".join(f"{name}={value!r}" for name, value in plain(changes).items())
        message = f"{entry.key} has no runs{f' with {sizes}' if sizes else ''}; ask for more."
        raise InputError(message)
    jobs = tuple(
        run_of(entry, plain(case), setting, folder=folder / "runs", code=code, device=device)
        for case in cases
    )
    blank = replace(blank, device=device, setting=plain(setting))
    lock = Lock(folder)
    (folder / "runs").mkdir(exist_ok=True)
    return Prepared(entry, claim, setting, blank, folder, lock, jobs)


def _data(entry: Entry, name: str) -> list[str]:
    """Return what is at hand of a data set, by split, or refuse a claim that lacks it."""
    try:
        both = [datasets.load(name, split=split, samples=None) for split in ("train", "test")]
        return [each.name for each in both]
    except MissingError as error:
        advice = f"{entry.key} needs {name} with --full, and none with --fast."
        message = f"{error} {advice}"
        raise MissingError(message) from error


def _blank(entry: Entry, *, full: bool, claim: Claim | None = None) -> Outcome:
    """Return the outcome of a claim that was not run; little is known where it cannot be."""
    return Outcome(
        identity=entry.identity,
        key=entry.key,
        statement=claim.statement if claim else "",
        provenance=claim.provenance if claim else "",
        source=claim.source if claim else "",
        size="full" if full else "fast",
        status=NOT_RUN,
        alignlab=version("alignlab"),
        torch=str(torch.__version__),
        code=digest_of_sources(entry),
    )


@contextmanager
def _executed(
    ready: Sequence[Prepared], *, jobs: int, force: bool, progress: Progress
) -> Iterator[list[list[Callable[[], None]]]]:
    """Yield for every claim what waits until its cases are done, and raises what they raise."""
    every = [job for each in ready for job in each.jobs]
    if force:
        for job in every:
            job.file.unlink(missing_ok=True)
            shutil.rmtree(job.folder.parent, ignore_errors=True)
    missing = {job.file for job in every if not is_done(job)}
    if min(jobs, len(missing)) <= 1:
        yield [
            [partial(run, job, _under(each.entry.key, progress)) for job in each.jobs]
            for each in ready
        ]
        return
    with workers(min(jobs, len(missing))) as begin:
        yield [
            [begin(job) if job.file in missing else lambda: None for job in each.jobs]
            for each in ready
        ]


def _under(key: str, progress: Progress) -> Progress:
    """Return the progress of a run, with its claim's name in front."""
    return lambda label, done, total: progress(f"{key}, {label}", done, total)


def _finished(
    prepared: Prepared, waiting: Sequence[Callable[[], None]], progress: Progress
) -> Outcome:
    """Wait for a claim's cases, hold them against its checks, and write what came out."""
    key, total = prepared.entry.key, len(waiting)
    outcome = replace(
        prepared.blank,
        date=datetime.now(UTC).date().isoformat(),
        hardware=hardware(prepared.blank.device),
    )
    results: xr.Dataset | None = None
    try:
        for done, wait in enumerate(waiting):
            progress(key, done, total)
            wait()
        parts = [read(job.file) for job in prepared.jobs]
        outcome = replace(outcome, seconds=round(sum(map(seconds_of, parts)), 2))
        results = joined(prepared.jobs, parts)
        checks = prepared.claim.checks(results, prepared.setting)
        rows = tuple(Check(**plain(vars(check))) for check in checks)
        passed = bool(rows) and all(row.passed for row in rows)
        status = REPRODUCED if passed else NOT_REPRODUCED
        outcome = replace(outcome, checks=rows, status=status)
        write_results(prepared.folder, outcome, prepared.claim, results)
    except (BrokenProcessPool, OSError) as error:
        outcome = replace(outcome, status=_failure(error, prepared.folder))
    except Exception as error:
        outcome = replace(outcome, status=_failure(error, prepared.folder))
        with suppress(InputError, OSError):
            write_results(prepared.folder, outcome, prepared.claim, None)
    return outcome


def _failure(error: Exception, folder: Path) -> str:
    """Return an error as a status of one line; the folder is the one that is written to."""
    text = " ".join(str(error).split())
    if isinstance(error, BrokenProcessPool):
        return f"{FAILED}: {text}"
    if isinstance(error, OSError) and error.errno in FULL:
        advice = "make room there, and the same command goes on"
        return f"{FAILED}: nothing can be written to {folder}: {error.strerror}; {advice}"
    return f"{FAILED}: {type(error).__name__}: {text}" if text else f"{FAILED}: {error!r}"
