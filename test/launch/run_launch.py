"""``python run_launch.py FILE name:=value ...`` does what ``ros2 launch`` does, without ros2cli."""

from __future__ import annotations

import sys

from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource


def main() -> int:
    """Runs the launch file until everything has ended or a signal comes."""
    file, *arguments = sys.argv[1:]
    given = [tuple(argument.split(":=", 1)) for argument in arguments]
    service = LaunchService()
    service.include_launch_description(
        LaunchDescription(
            [IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=given)]
        )
    )
    return int(service.run())


if __name__ == "__main__":
    sys.exit(main())
