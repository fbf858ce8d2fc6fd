"""What the tests that ``launch_test`` runs share: the description under test, a ROS participant, the end."""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import launch_testing
from launch import LaunchDescription
from launch.actions import ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from ros_client import RosClient

REPOSITORY = Path(__file__).resolve().parents[2]
CAMERA = REPOSITORY / "test" / "ros_camera.py"


def python(script: Path, *arguments: object) -> ExecuteProcess:
    """A process that runs the script with this python."""
    return ExecuteProcess(cmd=[sys.executable, str(script), *map(str, arguments)])


def under_test(name: str, *companions: ExecuteProcess, **arguments: object) -> LaunchDescription:
    """``launch/<name>.launch.py`` with arguments and the untrained checkpoint, beside other processes."""
    source = PythonLaunchDescriptionSource(str(REPOSITORY / "launch" / f"{name}.launch.py"))
    given = {"model_path": os.environ["TEST_CHECKPOINT"], "device": "cpu", **arguments}
    pairs = [(argument, str(value)) for argument, value in given.items()]
    return LaunchDescription(
        [*companions, IncludeLaunchDescription(source, launch_arguments=pairs), ReadyToTest()]
    )


def client_for(case: unittest.TestCase, node: str) -> RosClient:
    """A ROS participant that asks this node, until the test case ends."""
    client = RosClient(int(os.environ["ROS_DOMAIN_ID"]), node)
    case.addCleanup(client.close)
    return client


@launch_testing.post_shutdown_test()
class EndsCleanly(unittest.TestCase):
    """After one SIGINT every process has ended with status 0, or the one given for its executable."""

    statuses: ClassVar[Mapping[str, int]] = {}

    def test_every_process_ends_cleanly(self, proc_info: Any, proc_output: Any) -> None:
        ends = {end.process_name: end.returncode for end in proc_info}
        expected = {
            name: next((self.statuses[part] for part in self.statuses if part in name), 0) for name in ends
        }
        assert ends == expected, f"{ends} and not {expected}"
        for output in proc_output:
            # The test's own cameras are run by python, and SIGINT may meet them anywhere within rclpy.
            if not output.process_name.startswith("python"):
                assert "Traceback" not in output.text.decode()
