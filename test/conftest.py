"""Fixtures that every test may use: an isolated ROS domain, child processes, data sets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pvt_mtl_perception.inference.process import profile_variable

REPOSITORY = Path(__file__).resolve().parents[1]
FASTDDS_PROFILE = REPOSITORY / "config" / "fastdds_large_images.xml"

# Ports of higher domains reach into Linux's ephemeral range; 0 is everybody's default.
DOMAIN_IDS = range(1, 102)

# The same start as `make test` for whoever calls pytest directly.
os.environ.setdefault(profile_variable(), str(FASTDDS_PROFILE))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
# Tests run several processes on few cores. OpenMP threads that share a core wait for each other in a spin;
# a frame then takes seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A background job of a shell ignores SIGINT and would hand that on to every child it is to stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def reserved_domain_id() -> Iterator[int]:
    """A ROS domain that no other running test on this machine has, reserved by a file lock."""
    folder = Path(tempfile.gettempdir()) / "pvt_mtl_ros_domains"
    folder.mkdir(mode=0o777, exist_ok=True)
    start = os.getpid() * 7 % len(DOMAIN_IDS)
    for step in range(len(DOMAIN_IDS)):
        domain_id = DOMAIN_IDS[(start + step) % len(DOMAIN_IDS)]
        with open(folder / str(domain_id), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain_id
            return
    pytest.fail(f"all {len(DOMAIN_IDS)} ROS domains are reserved by other tests (locks in {folder})")


def environment_for(ros_domain_id: int) -> dict[str, str]:
    """The environment of a child process: own domain, this machine only, the large-image profile."""
    environment = dict(os.environ)
    environment["ROS_DOMAIN_ID"] = str(ros_domain_id)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment["PYTHONUNBUFFERED"] = "1"
    environment[profile_variable()] = str(FASTDDS_PROFILE)
    return environment


@pytest.fixture
def ros_domain_id() -> Iterator[int]:
    """A ROS domain of the test's own."""
    with reserved_domain_id() as domain_id:
        yield domain_id


@pytest.fixture
def ros_environment(ros_domain_id: int) -> dict[str, str]:
    """The environment of the test's child processes."""
    return environment_for(ros_domain_id)


def without_ros_wheels(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for the python of another environment.

    The wheels' start-up hook leaves a marker and a library path behind; a foreign python that inherits
    them loads this environment's ROS libraries.
    """
    cleaned = dict(environment)
    if cleaned.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
        cleaned.pop("LD_LIBRARY_PATH", None)
    return cleaned


class Child:
    """A running child process whose stdout and stderr are kept line by line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        self.command = list(command)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            self.command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        """Everything printed so far."""
        with self._news:
            return "\n".join(self.lines)

    def wait_for(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """The first line, printed before or after this call, that holds the regular expression.

        Raises:
            AssertionError: when the process ends or ``timeout`` seconds pass first, with its output.
        """
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if match := expression.search(line):
                        return match
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._news.wait(left)
        why = "ended" if self._ended else f"was silent for {timeout:g} s"
        raise AssertionError(f"{self._name()} {why} without a line like {pattern!r}:\n{self.output}")

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status, once the process has ended by itself.

        Raises:
            AssertionError: when it still runs after ``timeout`` seconds, with its output.
        """
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._name()} still ran after {timeout:g} s:\n{self.output}") from None
        self._reader.join(5.0)
        return status

    def stop(self, timeout: float = 15.0) -> int:
        """The exit status after one SIGINT, which is what Ctrl-C and ``ros2 launch`` send.

        Raises:
            AssertionError: when it does not end within ``timeout`` seconds, with its output.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait(timeout)

    def stop_cleanly(self, timeout: float = 15.0) -> None:
        """As ``stop``, with status 0 and no traceback in all that it has printed.

        Raises:
            AssertionError: otherwise, with its output.
        """
        assert self.stop(timeout) == 0, self.output
        assert "Traceback" not in self.output, self.output

    def kill(self) -> None:
        """End the process and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join(5.0)

    def _name(self) -> str:
        return " ".join(self.command)[:200]


class Spawn:
    """Starts python children; what ``spawn`` the fixture gives."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.children: list[Child] = []

    def __call__(
        self,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
        cwd: Path = REPOSITORY,
    ) -> Child:
        """``python arguments…`` as a running child.

        Args:
            arguments: for example ``"-m", "pvt_mtl_perception.ros.perception_node"`` or ``"-c", source``.
            environment: changes to the fixture's environment; an empty value removes the variable.
            python: the interpreter; one of another environment gets none of this one's ROS libraries.
            cwd: the working folder.
        """
        merged = {**self.environment, **(environment or {})}
        merged = {name: value for name, value in merged.items() if value}
        if Path(python) != Path(sys.executable):
            merged = without_ros_wheels(merged)
        child = Child([str(python), *map(str, arguments)], merged, cwd)
        self.children.append(child)
        return child


@contextlib.contextmanager
def spawning(environment: Mapping[str, str]) -> Iterator[Spawn]:
    """A ``Spawn`` whose children end with the block."""
    starter = Spawn(environment)
    try:
        yield starter
    finally:
        for child in starter.children:
            child.kill()


@pytest.fixture
def spawn(ros_environment: dict[str, str]) -> Iterator[Spawn]:
    """Starts python children in the test's own ROS domain and leaves none behind.

    ``node = spawn("-m", "module"); node.wait_for("ready"); node.stop()``
    """
    with spawning(ros_environment) as starter:
        yield starter


@pytest.fixture(scope="module")
def module_spawn() -> Iterator[Spawn]:
    """As ``spawn``, in one ROS domain for all tests of a module; its ``environment`` names it."""
    with reserved_domain_id() as domain_id, spawning(environment_for(domain_id)) as starter:
        yield starter


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The CamVid folder (``train/``, ``trainannot/`` …); the test is skipped where it is absent."""
    root = Path(os.environ.get("CAMVID_ROOT") or REPOSITORY.parent / "shared" / "data" / "camvid")
    if not root.is_dir():
        pytest.skip(f"CamVid is not at {root}; CAMVID_ROOT names another folder")
    return root
