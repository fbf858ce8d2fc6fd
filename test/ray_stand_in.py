"""Ray's remote functions, ``wait``, ``get`` and ``cancel`` by processes of this machine.

What a study's executor uses of ray and no more. As in ray, a task runs in another process, ``wait`` leaves
results where they are, ``get`` raises what a task raised, and ``cancel`` interrupts it.
"""

from __future__ import annotations

import _thread
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As ``ray.exceptions.RayError``."""


exceptions = SimpleNamespace(RayError=RayError)

connected: dict[str, Any] = {}
"""What ``init`` was called with; empty after ``shutdown``."""

options_of_tasks: list[dict[str, Any]] = []


def init(**options: Any) -> None:
    connected.update(options)


def shutdown() -> None:
    connected.clear()


def _work(
    function: Callable[..., Any], arguments: Sequence[Any], answers: Connection, orders: Connection
) -> None:
    def obey() -> None:
        with suppress(EOFError):
            orders.recv()
            # As ray: no signal is sent, so nothing that blocks is woken.
            _thread.interrupt_main()

    threading.Thread(target=obey, daemon=True).start()
    try:
        answers.send((True, function(*arguments)))
    except BaseException as error:
        answers.send((False, repr(error)))


class Task:
    """An object reference: hashable, and all that is known of a result to come."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.answers, sender = context.Pipe(duplex=False)
        receiver, self.orders = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(function, arguments, sender, receiver))
        self.process.start()
        sender.close()
        receiver.close()


class RemoteFunction:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def options(self, **options: Any) -> RemoteFunction:
        options_of_tasks.append(options)
        return self

    def remote(self, *arguments: Any) -> Task:
        assert connected, "ray.init was not called"
        return Task(self._function, arguments)


def remote(function: Callable[..., Any]) -> RemoteFunction:
    return RemoteFunction(function)


def wait(
    tasks: Sequence[Task], *, num_returns: int = 1, timeout: float | None = None
) -> tuple[list[Task], list[Task]]:
    deadline = None if timeout is None else time.monotonic() + timeout
    ready: list[Task] = []
    while len(ready) < num_returns:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        pending = {task.answers: task for task in tasks if task not in ready}
        found = wait_for_any(list(pending), left)
        if not found:
            break
        ready += [pending[answers] for answers in found]
    return ready[:num_returns], [task for task in tasks if task not in ready[:num_returns]]


def get(task: Task) -> Any:
    try:
        fine, answer = task.answers.recv()
    except EOFError:
        raise RayError("the worker died") from None
    task.process.join()
    if not fine:
        raise RayError(answer)
    return answer


def cancel(task: Task) -> None:
    task.orders.send("cancel")
