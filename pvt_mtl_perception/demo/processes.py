"""Child processes whose output goes to a file, that are stopped in order and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

_TAIL = 12
"""Lines of a failed child's output that its error shows."""

_STOP_TIMEOUT = 20.0
"""Seconds that a child has to end by itself after SIGINT."""

_POLL = 0.1

_CHILD = "pvt_mtl_perception.demo.child"


class ChildError(RuntimeError):
    """A child failed or did not get ready; the message has its last lines and the file with all of them."""


class Child:
    """A python module in a process of its own.

    Use as a context manager: leaving it stops the process.

    Args:
        name: for messages.
        module: what ``python -m`` runs.
        arguments: what follows it.
        log: gets stdout and stderr.
        environment: of the process.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(os.getpid()), module, *arguments],
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal goes to the parent alone, which stops its children in order.
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return self._log.read_text(errors="replace")

    def tail(self, size: int = 4096) -> str:
        """The last ``size`` bytes of it, from the start of a line."""
        with self._log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            text = file.read().decode(errors="replace")
        return text if end <= size else text.partition("\n")[2]

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.poll()

    def error(self, what: str) -> ChildError:
        """An error about this child with its last lines."""
        lines = self.output.splitlines()[-_TAIL:]
        shown = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        return ChildError(f"{self.name} {what}; the last lines of {self._log}:\n{shown}")

    def stop(self) -> int:
        """The exit status after SIGINT; a process that ignores it is killed.

        Raises:
            ChildError: when it had to be killed.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise self.error(f"did not end within {_STOP_TIMEOUT:g} s and was killed") from None

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def wait_until(
    condition: Callable[[], bool], children: Sequence[Child], timeout: float, waiting_for: str
) -> None:
    """Waits while the children run.

    Args:
        condition: what is waited for.
        children: none of them may end meanwhile; the first one is blamed for a timeout.
        timeout: seconds.
        waiting_for: in words, for the error.

    Raises:
        ChildError: when a child ends or the time is up.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        for child in children:
            if child.status is not None and not condition():
                raise child.error(f"ended with status {child.status} before {waiting_for}")
        if time.monotonic() > deadline:
            raise children[0].error(f"did not get as far as {waiting_for} within {timeout:g} s")
        time.sleep(_POLL)
