"""The group of processes: what is left of it when it has been left."""

from __future__ import annotations

import os
import subprocess
import sys

_PROGRAM = """
import os
import time
from pathlib import Path
from pvt_mtl_perception.training.distributed import join_processes

def of_gloo():
    return [name for task in Path("/proc/self/task").iterdir()
            if "gloo" in (name := (task / "comm").read_text())]

with join_processes() as processes:
    import torchvision
    end = time.monotonic() + 60
    while not of_gloo() and time.monotonic() < end:  # a thread names itself when it first runs
        time.sleep(0.01)
    assert of_gloo()
    assert processes.any(True, False) == (True, False)
assert not of_gloo(), of_gloo()
"""


def test_no_thread_of_the_group_outlives_it() -> None:
    # One that does aborts the process at its exit, now and then.
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        check=False,
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
