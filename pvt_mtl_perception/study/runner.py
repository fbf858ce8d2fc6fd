"""Runs a study's jobs until each is finished or has failed, and says where a study stands."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from pvt_mtl_perception.study.executors import Executor
from pvt_mtl_perception.study.folder import JobFolder, State, write_atomically
from pvt_mtl_perception.study.jobs import Job, job_folder, outdated, prepare
from pvt_mtl_perception.study.worker import CLAIMED_ELSEWHERE

_LOOK_EVERY = 2.0
"""Seconds between two looks at running jobs and at those of other runners."""

STATES: tuple[State, ...] = ("done", "running", "failed", "waiting")


@dataclass(frozen=True)
class Failure:
    """A job that ended without a result.

    Attributes:
        job_id: of the job.
        reason: the last line that it printed, or why it was not started.
        output: the file with all that it printed; None when it was not started.
    """

    job_id: str
    reason: str
    output: Path | None


@dataclass
class _Durations:
    """Seconds that jobs took, to tell how long the others will take."""

    _by_kind: dict[tuple[str | None, int], list[float]] = field(default_factory=dict)
    _per_step: list[float] = field(default_factory=list)

    def add(self, job: Job, result: Mapping[str, Any]) -> None:
        seconds = result["training"]["seconds"] + result["evaluation_seconds"]
        self._by_kind.setdefault((job.arm, job.config.total_steps), []).append(seconds)
        self._per_step.append(seconds / max(1, job.config.total_steps))

    def of(self, job: Job, running_per_step: Sequence[float]) -> float | None:
        """A job's whole duration: the mean of its kind, or by steps that of all jobs; None when unknown."""
        if known := self._by_kind.get((job.arm, job.config.total_steps)):
            return sum(known) / len(known)
        rates = self._per_step or running_per_step
        return job.config.total_steps * sum(rates) / len(rates) if rates else None


def end_time(seconds: float | None) -> str:
    """The clock time in so many seconds, with the date where it is not today's; "unknown" for None."""
    if seconds is None:
        return "unknown"
    end = datetime.now() + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == datetime.now().date() else f"{end:%Y-%m-%d %H:%M}"


class Progress:
    """Steps, states and the end time of some jobs, read from their folders.

    Args:
        out: the study's folder.
        jobs: which.
    """

    def __init__(self, out: Path, jobs: Sequence[Job]) -> None:
        self.out = out
        self.jobs = list(jobs)
        self.states: dict[str, State] = {}
        self.total_steps = sum(job.config.total_steps for job in jobs)
        self.steps = 0
        self._durations = _Durations()
        self._done: set[str] = set()
        self._left: float | None = None

    def look(self, at_once: int | None = None) -> None:
        """Reads the folders.

        Args:
            at_once: how many jobs run beside each other; as many as do now when None.
        """
        steps_done: dict[str, int] = {}
        rates = []
        for job in self.jobs:
            folder = job_folder(self.out, job)
            state = "done" if job.id in self._done else folder.state()
            self.states[job.id] = state
            if state == "done":
                steps_done[job.id] = job.config.total_steps
                if job.id not in self._done:
                    self._done.add(job.id)
                    self._durations.add(job, folder.read_result())
                continue
            steps_done[job.id] = min(folder.steps_done(), job.config.total_steps)
            if state == "running" and (seconds := folder.seconds_per_step()):
                rates.append(seconds)
        self.steps = sum(steps_done.values())
        left = []
        for job in self.jobs:
            if self.states[job.id] == "done":
                continue
            duration = self._durations.of(job, rates)
            if duration is None:
                self._left = None
                return
            left.append(duration * (1 - steps_done[job.id] / max(1, job.config.total_steps)))
        beside = at_once or max(1, self.count("running"))
        self._left = max(sum(left) / beside, *left) if left else 0.0

    def count(self, state: State) -> int:
        """Jobs in a state."""
        return sum(found == state for found in self.states.values())

    def end(self) -> str:
        """When the jobs that are left will be done; "unknown" before anything was measured."""
        return end_time(self._left)

    def seconds_per_job(self, arm: str | None) -> float | None:
        """Mean duration of an arm's finished jobs."""
        jobs = [job for job in self.jobs if job.arm == arm and job.id in self._done]
        known = [seconds for job in jobs if (seconds := self._durations.of(job, ())) is not None]
        return sum(known) / len(known) if known else None


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM, which a cluster sends before its time limit, does what Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_jobs(out: Path, jobs: Sequence[Job], executor: Executor) -> list[Failure]:
    """Runs the jobs that are not finished; returns when each of them is, or has failed.

    A job that another runner works on is waited for, and taken over when that one ends without a result. One
    that failed earlier is tried again, once. A failure stops no other job but those that need its weights.

    Args:
        out: the study's folder.
        jobs: which, in the order they are started in.
        executor: where.

    Returns:
        The jobs that failed.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the running jobs have saved their states.
    """
    began = time.time()
    failures: dict[str, Failure] = {}
    waiting = {job.id: job for job in jobs}
    running: dict[str, Job] = {}
    progress = Progress(out, jobs)
    progress.look(executor.slots)
    with (
        terminate_as_interrupt(),
        tqdm(
            total=progress.total_steps,
            initial=progress.steps,
            unit="step",
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
        ) as bar,
    ):
        try:
            while waiting or running:
                for job in list(waiting.values()):
                    if len(running) >= executor.slots:
                        break
                    folder = job_folder(out, job)
                    if folder.result.is_file():
                        del waiting[job.id]
                    elif job.needs in failures:
                        reason = f"its pretraining {job.needs} failed"
                        failures[job.id] = Failure(job.id, reason, None)
                        del waiting[job.id]
                    elif (
                        job.needs and not job_folder(out, job.needs).result.is_file()
                    ) or folder.is_claimed():
                        continue
                    elif _failed_since(folder, began):
                        failures[job.id] = Failure(job.id, folder.last_line(), folder.output)
                        del waiting[job.id]
                    else:
                        prepare(folder, job)
                        executor.start(out, job.id)
                        running[job.id] = waiting.pop(job.id)
                if not waiting and not running:
                    break
                if ended := executor.next_end(_LOOK_EVERY):
                    job_id, status = ended
                    job = running.pop(job_id)
                    folder = job_folder(out, job)
                    if status == CLAIMED_ELSEWHERE:
                        waiting[job_id] = job
                    elif not folder.result.is_file():
                        failures[job_id] = _failure(folder, job_id, status)
                        bar.write(
                            f"failed: {job_id}: {failures[job_id].reason} (all of it in {folder.output})"
                        )
                _show(bar, progress, executor.slots, len(failures))
        finally:
            executor.stop()
        _show(bar, progress, executor.slots, len(failures))
    return list(failures.values())


def _failed_since(folder: JobFolder, began: float) -> bool:
    try:
        return folder.failure.stat().st_mtime >= began
    except FileNotFoundError:
        return False


def _failure(folder: JobFolder, job_id: str, status: int) -> Failure:
    reason = folder.last_line()
    if status < 0:
        reason = f"ended by {signal.Signals(-status).name}"
    record = {"time": time.time(), "status": status, "reason": reason}
    write_atomically(folder.failure, json.dumps(record) + "\n")
    return Failure(job_id, reason, folder.output)


def _show(bar: Any, progress: Progress, slots: int, failed: int) -> None:
    progress.look(slots)
    bar.n = progress.steps
    text = (
        f"{progress.count('done')}/{len(progress.jobs)} jobs, {progress.count('running')} running"
        f"{f', {failed} failed' if failed else ''}, end {progress.end()}"
    )
    # Into a file it goes only when there is news.
    bar.set_description_str(text, refresh=sys.stderr.isatty() or text != bar.desc)


def outdated_jobs(out: Path, jobs: Sequence[Job]) -> list[str]:
    """A line for each finished job whose configuration is not the study's any more."""
    lines = []
    for job in jobs:
        folder = job_folder(out, job)
        if folder.result.is_file() and (keys := outdated(folder.read_result(), job)):
            lines.append(
                f"{job.id} was run under another configuration ({', '.join(keys)} differ); "
                f"remove {folder.path} to run it again"
            )
    return lines


def status_table(out: Path, jobs: Sequence[Job]) -> str:
    """Jobs by arm and state, how long one takes, and when the rest will be done.

    Args:
        out: the study's folder.
        jobs: all of the study.
    """
    progress = Progress(out, jobs)
    progress.look()
    counts: dict[str | None, Counter[State]] = {}
    for job in jobs:
        counts.setdefault(job.arm, Counter())[progress.states[job.id]] += 1
    names = {arm: "(pretraining)" if arm is None else arm for arm in counts}
    width = max(len(name) for name in (*names.values(), "all"))
    lines = [" ".join([f"{'arm':<{width}}", *(f"{state:>8}" for state in STATES), f"{'s a job':>8}"])]
    for arm, count in counts.items():
        seconds = progress.seconds_per_job(arm)
        cells = [f"{count[state]:>8}" for state in STATES]
        lines.append(
            " ".join([f"{names[arm]:<{width}}", *cells, f"{'-' if seconds is None else f'{seconds:.0f}':>8}"])
        )
    lines.append(" ".join([f"{'all':<{width}}", *(f"{progress.count(state):>8}" for state in STATES)]))
    running = progress.count("running")
    if progress.count("done") < len(jobs):
        lines.append(f"end {progress.end()} with {max(1, running)} at a time")
    for job in jobs:
        if progress.states[job.id] == "failed":
            folder = job_folder(out, job)
            lines.append(f"failed: {job.id}: {folder.last_line()} (all of it in {folder.output})")
    return "\n".join(lines)
