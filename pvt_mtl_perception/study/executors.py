"""Where jobs run: as processes of this machine, or of a Ray cluster."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pvt_mtl_perception.study.folder import STUDY_VARIABLE
from pvt_mtl_perception.study.jobs import job_folder

_STOP_TIMEOUT = 120.0
"""Seconds that a job has to finish its step and save after SIGTERM."""

_LOOK_FOR_CANCEL = 1.0
"""Seconds between two looks of a Ray task at whether it was cancelled."""


class Executor(Protocol):
    """Runs jobs beside each other."""

    @property
    def slots(self) -> int:
        """How many jobs at once."""
        ...

    def start(self, out: Path, job_id: str) -> None:
        """Starts a job whose folder is prepared; there is a free slot."""
        ...

    def next_end(self, timeout: float) -> tuple[str, int] | None:
        """Id and exit status of a job that has ended; None when none did within ``timeout`` seconds."""
        ...

    def stop(self) -> None:
        """Ends all jobs in order, so that they can be resumed."""
        ...


def start_worker(out: Path, job_id: str, device: str, threads: int | None) -> subprocess.Popen[bytes]:
    """The process of a job, which ends with the thread that calls this.

    Args:
        out: the study's folder.
        job_id: of a job whose folder is prepared.
        device: torch device.
        threads: CPU threads, torch's choice when None.
    """
    folder = job_folder(out, job_id)
    environment = os.environ | {
        STUDY_VARIABLE: str(out.resolve()),
        "PYTHONUNBUFFERED": "1",
        # The bar goes into a file.
        "TQDM_MININTERVAL": "10",
    }
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    arguments = [str(folder.path.resolve()), "--device", device, "--parent", str(os.getpid())]
    with folder.output.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pvt_mtl_perception.study.worker", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal goes to the parent alone, which stops its jobs in order.
            start_new_session=True,
        )


def end_worker(process: subprocess.Popen[bytes]) -> None:
    """Has a job save its state and end; kills it when that takes too long."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class LocalExecutor:
    """Processes of this machine.

    Args:
        workers: how many at once.
        devices: torch devices, given to the workers in turn.
        threads: CPU threads of each.
    """

    def __init__(self, workers: int, devices: Sequence[str] = ("cpu",), threads: int | None = None) -> None:
        self._free = [devices[number % len(devices)] for number in reversed(range(workers))]
        self._workers = workers
        self._threads = threads
        self._running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
        self._ended: queue.Queue[str] = queue.Queue()

    @property
    def slots(self) -> int:
        """How many jobs at once."""
        return self._workers

    def start(self, out: Path, job_id: str) -> None:
        """Starts a job; call it from the main thread, whose end is the job's."""
        device = self._free.pop()
        process = start_worker(out, job_id, device, self._threads)
        self._running[job_id] = (process, device)

        def wait() -> None:
            process.wait()
            self._ended.put(job_id)

        threading.Thread(target=wait, daemon=True).start()

    def next_end(self, timeout: float) -> tuple[str, int] | None:
        """As in ``Executor``."""
        try:
            job_id = self._ended.get(timeout=timeout)
        except queue.Empty:
            return None
        process, device = self._running.pop(job_id)
        self._free.append(device)
        return job_id, process.wait()

    def stop(self) -> None:
        """As in ``Executor``."""
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            end_worker(process)


def _work_on_ray(out: str, job_id: str, device: str, threads: int) -> int:
    process = start_worker(Path(out), job_id, device, threads)
    ended = threading.Event()

    def wait() -> None:
        process.wait()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    try:
        # ray.cancel asks Python for a KeyboardInterrupt, which wakes nothing that waits without end.
        while not ended.wait(_LOOK_FOR_CANCEL):
            pass
        return process.wait()
    except BaseException:
        end_worker(process)
        raise


class RayExecutor:
    """Tasks of an existing Ray cluster, which sees the study's folder under the same path.

    Args:
        workers: how many at once.
        device: ``cuda`` asks Ray for a GPU a job.
        threads: CPU cores that a job asks Ray for, and its threads.

    Raises:
        RuntimeError: when ray is not installed.
        ConnectionError: from ray, when no cluster is found; ``RAY_ADDRESS`` names one.
    """

    def __init__(self, workers: int, device: str = "cpu", threads: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise RuntimeError("--executor ray needs the package ray: pip install ray") from None
        self._ray: Any = ray
        ray.init(address="auto", log_to_driver=False)
        cores = threads or 1
        self._work = ray.remote(_work_on_ray).options(
            num_cpus=cores, num_gpus=1 if device.startswith("cuda") else 0, max_retries=0
        )
        self._workers = workers
        self._device = device
        self._threads = cores
        self._running: dict[Any, tuple[Path, str]] = {}

    @property
    def slots(self) -> int:
        """How many jobs at once."""
        return self._workers

    def start(self, out: Path, job_id: str) -> None:
        """As in ``Executor``."""
        task = self._work.remote(str(out.resolve()), job_id, self._device, self._threads)
        self._running[task] = (out, job_id)

    def next_end(self, timeout: float) -> tuple[str, int] | None:
        """As in ``Executor``; a task that Ray lost has the status 1."""
        if not self._running:
            time.sleep(timeout)
            return None
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if not ended:
            return None
        out, job_id = self._running.pop(ended[0])
        try:
            return job_id, int(self._ray.get(ended[0]))
        except self._ray.exceptions.RayError as error:
            with job_folder(out, job_id).output.open("a") as output:
                output.write(f"{error}\n")
            return job_id, 1

    def stop(self) -> None:
        """As in ``Executor``."""
        for task in self._running:
            self._ray.cancel(task)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_TIMEOUT)
        self._ray.shutdown()
