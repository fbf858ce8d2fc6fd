from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import resource, sys
from pvt_mtl_perception.inference.process import prepare_process
if sys.argv[1] == "prepared":
    prepare_process()
size, count = 6 << 20, 20
def image():
    first, second = bytearray(size), bytearray(size)
    first[::4096] = second[::4096] = bytes(size // 4096)
image()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(count):
    image()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SHOW_OPENMP = """
from pvt_mtl_perception.inference.process import prepare_process
prepare_process()
import torch
"""


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_buffers_of_the_next_image_need_no_new_pages() -> None:
    # Two buffers of 6 MiB are 3072 pages an image.
    assert int(run(ALLOCATE, "prepared").stdout) < 20 * 3072 / 100
    assert int(run(ALLOCATE, "as it comes").stdout) > 20 * 3072 / 2


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_torchs_openmp_threads_sleep_unless_told_otherwise(given: dict[str, str], expected: str) -> None:
    shown = run(SHOW_OPENMP, OMP_DISPLAY_ENV="TRUE", **given).stderr
    assert f"OMP_WAIT_POLICY = '{expected}'" in shown
