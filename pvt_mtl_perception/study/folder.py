"""The folder of a job: its lock, its state, its result. Imports nothing heavy."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pvt_mtl_perception.paths import replaced

State = Literal["done", "running", "failed", "waiting"]

NMS_THRESHOLD = 0.6
"""Of all scores of studies, whatever it is elsewhere: jobs that were scored years apart can be compared."""

STUDY_VARIABLE = "PVT_MTL_STUDY"
"""Environment variable of a job's process: the study's folder, wherever it lies."""

_CLAIM_TRIES = 20
_CLAIM_PAUSE = 0.1


@dataclass(frozen=True)
class JobFolder:
    """The files of one job.

    ``job.json`` and ``config.yaml`` say what it is, ``result.json`` that it is finished, ``failure.json``
    that its last attempt failed, ``sessions.jsonl`` when it ran, ``output.txt`` what it printed; ``records``
    has the evaluation by image; the others are the trainer's. Whoever works on it holds a lock on ``claim``,
    which ends with its process.
    """

    path: Path

    @property
    def result(self) -> Path:
        """Written when all is done."""
        return self.path / "result.json"

    @property
    def failure(self) -> Path:
        """Written when an attempt failed, removed by the next one."""
        return self.path / "failure.json"

    @property
    def output(self) -> Path:
        """What the job's processes printed."""
        return self.path / "output.txt"

    @property
    def config(self) -> Path:
        """The training configuration."""
        return self.path / "config.yaml"

    def records(self, source: str) -> Path:
        """What the evaluation on a source (of ``named_sources``) left of each image, for ``load_records``."""
        return self.path / "records" / f"{source.replace('/', '_')}.npz"

    @property
    def sessions(self) -> Path:
        """A line for each start and each end of a process."""
        return self.path / "sessions.jsonl"

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Yields whether this process has the job for itself now."""
        with (self.path / "claim").open("a") as file:
            for _ in range(_CLAIM_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    # It may be only a look by ``is_claimed``.
                    time.sleep(_CLAIM_PAUSE)
                    continue
                yield True
                return
            yield False

    def is_claimed(self) -> bool:
        """Whether some process works on it."""
        try:
            with (self.path / "claim").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def state(self) -> State:
        """Where the job stands."""
        if self.result.is_file():
            return "done"
        if self.is_claimed():
            return "running"
        return "failed" if self.failure.is_file() else "waiting"

    def steps_done(self) -> int:
        """Training steps that its log has; the log has every tenth."""
        return int(self._last_row().get("step", 0))

    def seconds_per_step(self) -> float | None:
        """As the log's last line has it."""
        seconds = self._last_row().get("step_s")
        return None if seconds is None else float(seconds)

    def _last_row(self) -> dict[str, Any]:
        try:
            with (self.path / "log.jsonl").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        for line in reversed(lines):
            try:
                row: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "losses" in row:
                return row
        return {}

    def read_result(self) -> dict[str, Any]:
        """What the finished job wrote.

        Raises:
            FileNotFoundError: when it is not finished.
        """
        result: dict[str, Any] = json.loads(self.result.read_text())
        return result

    def last_line(self) -> str:
        """The last line that it printed."""
        lines = self.output.read_text(errors="replace").splitlines() if self.output.is_file() else []
        return next((line for line in reversed(lines) if line.strip()), "(no output)")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that it has the old content or the new one, never a part.

    Raises:
        OSError: from the file system; ``path`` is then as it was.
    """
    with replaced(path) as temporary:
        temporary.write_text(text)
