from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pvt_mtl_perception.inference.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
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


def page_faults(mode: str) -> int:
    result = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_buffers_of_the_next_image_need_no_new_pages() -> None:
    # Two buffers of 6 MiB are 3072 pages an image.
    assert page_faults("keep") < 20 * 3072 / 100
    assert page_faults("default") > 20 * 3072 / 2
