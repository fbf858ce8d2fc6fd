from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

from pvt_mtl_perception.inference.process import PROFILE_VARIABLES, with_large_images

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


@pytest.mark.parametrize(
    ("distribution", "wheels", "expected"),
    [
        ("jazzy", None, [0]),
        ("kilted", None, [1]),
        ("lyrical", "7.1.6", [1]),
        (None, "7.1.6", [0]),
        (None, "9.1.2", [1]),
        (None, None, [1]),
    ],
)
def test_the_profile_is_named_as_this_ros_reads_it(
    distribution: str | None, wheels: str | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if wheels is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return wheels

    monkeypatch.setattr(importlib.metadata, "version", version)
    for variable in (*PROFILE_VARIABLES, "ROS_DISTRO"):
        monkeypatch.delenv(variable, raising=False)
    if distribution is not None:
        monkeypatch.setenv("ROS_DISTRO", distribution)
    environment = with_large_images()
    assert [i for i, variable in enumerate(PROFILE_VARIABLES) if variable in environment] == expected
    assert environment[PROFILE_VARIABLES[expected[0]]].endswith("fastdds_large_images.xml")


def test_a_profile_of_the_users_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, other in (PROFILE_VARIABLES, PROFILE_VARIABLES[::-1]):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(given, "/mine.xml")
        environment = with_large_images()
        assert environment[given] == "/mine.xml" and other not in environment
