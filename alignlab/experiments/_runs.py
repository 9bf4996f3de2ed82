"""One case of a claim: its file, and the process in which it is run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_limits

from alignlab import plugins
from alignlab.errors import InputError
from alignlab.experiments._base import Case, Claim, Work
from alignlab.experiments._catalogue import Entry
from alignlab.recording.replacement import replacing, reserve

__all__ = [
    "Job",
    "file_name",
    "is_done",
    "joined",
    "load",
    "plain",
    "read",
    "run",
    "run_of",
    "seconds_of",
    "workers",
    "write",
]

DIGEST = "alignlab_run"
SECONDS = "alignlab_seconds"

GRACE = 1.0
"""Seconds after a process was killed, in which Ctrl-C comes before another one is started."""

CAN_HOLD = hasattr(signal, "pthread_sigmask")
"""Whether a thread can keep Ctrl-C from the processes that it starts; not on Windows."""

OVERHEAD = 4096
"""Bytes of names and attributes that a variable takes at most."""

UNDECODED: dict[str, Any] = {"decode_times": False, "decode_timedelta": False}
"""A variable in seconds stays a number."""


@dataclass(frozen=True)
class Job:
    """One case, with all that its process needs.

    Attributes:
        entry: The claim.
        case: Coordinates of the run.
        setting: Sizes.
        file: Where its numbers go.
        digest: Of all on which they depend.
        device: Where tensors are to live.
    """

    entry: Entry
    case: Case
    setting: Mapping[str, Any]
    file: Path
    digest: str
    device: str

    @property
    def folder(self) -> Path:
        """Folder of the run, gone when it is complete; other code never finds what it left."""
        return self.file.with_suffix("") / self.digest[:16]


def load(entry: Entry) -> Claim:
    """Import a claim.

    Raises:
        InputError: What is found under the name is no claim.
    """
    kind = plugins.load(entry.package, entry.claim)
    if not (isinstance(kind, type) and issubclass(kind, Claim)):
        message = f"{entry.key} is {kind!r}; the file of a claim holds a subclass of Claim."
        raise InputError(message)
    return kind()


def plain(value: Any) -> Any:
    """Return a setting or a case in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def run_of(
    entry: Entry, case: Case, setting: Mapping[str, Any], *, folder: Path, code: str, device: str
) -> Job:
    """Return the job of a case.

    Args:
        entry: The claim.
        case: Coordinates of the run.
        setting: Sizes.
        folder: Where the files of the claim's runs lie.
        code: Of all versions on which results depend.
        device: Where tensors are to live.
    """
    words = json.dumps(plain(case), sort_keys=True)
    parts = [code, device, words, json.dumps(plain(setting), sort_keys=True)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Job(entry, case, setting, folder / f"{file_name(case)}.nc", digest, device)


def file_name(values: Mapping[str, Any]) -> str:
    """Return a name of a file or folder that tells values apart, readable as far as it can be."""
    shown = "_".join(f"{name}-{value}" for name, value in values.items())
    mark = hashlib.sha256(json.dumps(plain(values), sort_keys=True).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', shown)[:80].strip('.-')}_{mark}"


def is_done(job: Job) -> bool:
    """Return whether the job's file is there and is from the same code and setting."""
    try:
        with xr.open_dataset(job.file, engine="netcdf4", **UNDECODED) as opened:
            return bool(opened.attrs.get(DIGEST) == job.digest)
    except (OSError, ValueError, RuntimeError, KeyError):
        return False


def run(job: Job, progress: Callable[[str, int, int], None] = lambda *_: None) -> None:
    """Measure a case, unless that is done, and write its file.

    One thread and a random state of its own: what comes out depends neither on what ran before in
    the process nor on how many of them there are.
    """
    if is_done(job):
        return
    start = time.perf_counter()
    job.folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        accelerators = [job.device] if torch.device(job.device).type == "cuda" else []
        with threadpool_limits(1), torch.random.fork_rng(accelerators):
            torch.manual_seed(0)
            claim = load(job.entry)
            numbers = claim.measure(job.case, job.setting, Work(job.folder, job.device, progress))
    finally:
        torch.set_num_threads(threads)
    marks = {DIGEST: job.digest, SECONDS: time.perf_counter() - start}
    write(numbers.assign_attrs(marks), job.file)
    shutil.rmtree(job.folder.parent, ignore_errors=True)


@contextmanager
def workers(count: int) -> Iterator[Callable[[Job], Callable[[], None]]]:
    """Yield what hands a job to one of several processes and returns what waits for its end.

    That raises what the job raises, and BrokenProcessPool where its process was killed; a new
    process takes that one's place, and no other job fails. Leaving waits for jobs that have begun.

    Args:
        count: Processes, each on one thread.
    """
    idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
    for _ in range(count):
        idle.put(_worker())
    threads = ThreadPoolExecutor(count, initializer=_hold_interrupts)
    try:
        yield lambda job: threads.submit(_run_in_worker, job, idle).result
    finally:
        threads.shutdown(cancel_futures=True)
        for _ in range(count):
            idle.get().shutdown()


def _worker() -> ProcessPoolExecutor:
    """Return one process, started with its first job."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin_worker)


def _run_in_worker(job: Job, idle: SimpleQueue[ProcessPoolExecutor]) -> None:
    """Measure a case in an idle process, and put that back, or a new one where it was killed."""
    worker = idle.get()
    try:
        worker.submit(run, job).result()
    except BrokenProcessPool as error:
        worker.shutdown()
        worker = _worker()
        time.sleep(GRACE)
        message = "a process of it was killed (out of memory?); the same command goes on"
        raise BrokenProcessPool(message) from error
    finally:
        idle.put(worker)


def _hold_interrupts() -> None:
    """Let the processes that a thread starts import in peace: they wait with an interrupt."""
    if CAN_HOLD:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _begin_worker() -> None:
    """End with the process that started this one, also where that was killed or interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if CAN_HOLD:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def write(ds: xr.Dataset, path: Path) -> None:
    """Write a dataset aside, then give it its name.

    Raises:
        InputError: The folder cannot be written to.
        OSError: The disk has no room.
    """
    with replacing(path) as draft:
        reserve(draft.parent, ds.nbytes + OVERHEAD * (16 + len(ds.variables)))
        ds.to_netcdf(draft, format="NETCDF4", engine="netcdf4")


def read(path: Path) -> xr.Dataset:
    """Return a dataset, its file closed."""
    with xr.open_dataset(path, engine="netcdf4", **UNDECODED) as opened:
        return opened.load()


def seconds_of(ds: xr.Dataset) -> float:
    """Return how long the run of a dataset took."""
    return float(ds.attrs[SECONDS])


def joined(jobs: Sequence[Job], datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the cases' datasets along ``run``, with the cases' keys as coordinates.

    Raises:
        InputError: A case's key is also a name within its dataset, or datasets do not fit.
    """
    rows = []
    for job, ds in zip(jobs, datasets, strict=True):
        taken = sorted({*job.case, "run"} & {*map(str, ds.variables), *map(str, ds.dims)})
        if taken:
            message = (
                f"{job.entry.key}: what it measures must not name {taken[0]!r}, a key of its cases."
            )
            raise InputError(message)
        keys = {name: ("run", [value]) for name, value in job.case.items()}
        rows.append(ds.drop_attrs(deep=False).expand_dims("run").assign_coords(keys))
    try:
        return xr.concat(
            rows,
            dim="run",
            data_vars="all",
            coords="different",
            compat="equals",
            join="outer",
            combine_attrs="override",
        )
    except ValueError as error:
        message = f"{jobs[0].entry.key}: its runs do not fit together: {error}"
        raise InputError(message) from error
