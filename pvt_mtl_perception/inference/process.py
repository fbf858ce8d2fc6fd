"""Settings of a whole process: memory, threads, an end with its parent's, the environment of its ROS 2."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import random
import signal
import sys

from pvt_mtl_perception.paths import share_directory

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_FREE = 1 << 30
_FROM_HEAP = 256 << 20

# From linux/prctl.h; it survives exec.
_PR_SET_PDEATHSIG = 1

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""What names Fast DDS's profiles: version 2 (Jazzy) reads the first, 3 (Kilted and later) the second."""

_DOMAINS = range(1, 102)
"""Ports of higher domains reach into Linux's ephemeral range; 0 is everybody's default."""


def prepare_process() -> None:
    """For programs that process image after image; call it before torch is imported.

    Memory: as it comes, glibc returns the buffers of an image and of the network's activations to the kernel
    when they are freed, and the next image pays for their pages again: reading a 1080p message takes 13 ms
    instead of 2 ms that way. After this call up to 1 GiB of freed memory stays with the process, and blocks
    up to 256 MiB come from it (``mallopt(3)``). Other C libraries are left as they are.

    Threads: OpenMP threads that wait for each other spin, and where other processes want the same cores, they
    spin while the one they wait for does not run: a frame then takes ten times as long. With
    ``OMP_WAIT_POLICY=PASSIVE`` they sleep, which costs nothing on free cores. A value that is set already
    stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE)
        mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP)


def prepare_script() -> None:
    """As ``prepare_process``, for a script that has imported torch already: OpenMP has read its policy then.

    The script is started again where the policy was not set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    prepare_process()


def profile_variable() -> str:
    """Which of ``PROFILE_VARIABLES`` this ROS 2 reads; Kilted warns where it finds the other one."""
    distribution = os.environ.get("ROS_DISTRO")
    if distribution is None:
        try:
            # The wheels set no ROS_DISTRO; Jazzy's rclpy is 7.
            distribution = "jazzy" if importlib.metadata.version("ros-rclpy").startswith("7.") else "later"
        except importlib.metadata.PackageNotFoundError:
            distribution = "later"
    return PROFILE_VARIABLES[distribution != "jazzy"]


def with_large_images() -> dict[str, str]:
    """This process's environment with the Fast DDS profile for large images, where none is named."""
    environment = dict(os.environ)
    if not any(environment.get(variable) for variable in PROFILE_VARIABLES):
        environment[profile_variable()] = str(share_directory() / "config" / "fastdds_large_images.xml")
    return environment


def ros_environment() -> dict[str, str]:
    """This process's environment with what keeps its ROS 2 to itself, where the user has not chosen.

    A random domain, this machine only, and the Fast DDS profile for large images.
    """
    environment = with_large_images()
    environment.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().choice(_DOMAINS)))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return environment


def end_with_parent(parent: int) -> None:
    """Has Linux send this process a SIGTERM when its parent ends in whatever way.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
