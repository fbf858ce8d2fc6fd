"""Builds the ROS 2 messages in ``msg/``, without CMake."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build as build_command

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from build_messages import MessagePackage, build_messages, prefix_of  # noqa: E402

DEPENDENCIES = ("builtin_interfaces", "std_msgs", "geometry_msgs")


class BuildMessages(build_command):
    """Generates and compiles in place of copying a package folder."""

    def run(self) -> None:
        package = MessagePackage(HERE, {name: prefix_of(name) for name in DEPENDENCIES})
        build = Path(self.build_temp).resolve() / "messages"
        module = Path(self.build_lib).resolve() / package.name
        self.distribution.data_files[:] = [
            (f"share/{package.name}", [str(HERE / "package.xml")]),
            *build_messages(package, build, module),
        ]


class BinaryDistribution(Distribution):
    """Tags the wheel with the interpreter and the platform it was compiled for."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    packages=[],
    # Filled in by the build, which is when the files come to exist.
    data_files=[],
    cmdclass={"build": BuildMessages},
    distclass=BinaryDistribution,
)
