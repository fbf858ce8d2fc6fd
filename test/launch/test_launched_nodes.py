"""Every launch file under launch_testing: nodes start, images go in, results come out, all end cleanly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from autoware_messages import provide_autoware_messages
from bag_files import street, write_bag
from launch_files import (
    REPOSITORY,
    ament_prefix_path,
    has_package,
    skip_where_launch_ros_does_not_find,
)

from pvt_mtl_perception.inference.process import PROFILE_VARIABLES

HERE = Path(__file__).resolve().parent
LAUNCH_TIMEOUT = 600.0
"""Of a whole ``launch_test``, some of which start the node twice."""


def run_launch_test(spawn: Any, name: str, **environment: object) -> None:
    """``launch_test`` of a launch file, in a process of its own.

    Its pytest plugin would import every other test too; pyproject.toml switches it off.
    """
    pytest.importorskip("launch_testing", reason="launch_testing comes with a ROS 2 installation")
    skip_where_launch_ros_does_not_find("perception_node", "autoware_converter", "bag_player")
    paths = [str(HERE.parent), spawn.environment.get("PYTHONPATH", "")]
    child = spawn(
        "-m",
        "launch_testing.launch_test",
        HERE / f"{name}_under_launch.py",
        environment={
            "PYTHONPATH": ":".join(filter(None, [str(HERE), *paths])),
            "AMENT_PREFIX_PATH": ament_prefix_path(),
            "OMP_NUM_THREADS": "1",
            # The launch files set them.
            **dict.fromkeys(PROFILE_VARIABLES, ""),
            **{variable: str(value) for variable, value in environment.items()},
        },
    )
    assert child.wait(LAUNCH_TIMEOUT) == 0, child.output
    assert "Caught exception in launch" not in child.output


def test_every_launch_file_has_its_launch_test() -> None:
    files = {path.name.removesuffix(".launch.py") for path in (REPOSITORY / "launch").glob("*.launch.py")}
    tests = {path.name.removesuffix("_under_launch.py") for path in HERE.glob("*_under_launch.py")}
    assert files == tests


@pytest.mark.parametrize("name", ["perception", "carla", "autoware"])
def test_a_launch_file_starts_a_node_that_perceives(spawn: Any, checkpoint: Path, name: str) -> None:
    run_launch_test(spawn, name, TEST_CHECKPOINT=checkpoint)


def test_autoware_launch_gives_autoware_its_rois(
    spawn: Any, checkpoint: Path, pytestconfig: pytest.Config
) -> None:
    provide_autoware_messages(spawn, pytestconfig)
    run_launch_test(spawn, "autoware", TEST_CHECKPOINT=checkpoint)


def test_nav2_launch_starts_a_node_that_its_manager_can_manage(
    spawn: Any, checkpoint: Path, tmp_path: Path
) -> None:
    prefixes = ament_prefix_path()
    if not has_package("nav2_lifecycle_manager"):
        prefixes = f"{stand_in_for_nav2(tmp_path)}:{prefixes}"
    run_launch_test(spawn, "nav2", TEST_CHECKPOINT=checkpoint, AMENT_PREFIX_PATH=prefixes)


def stand_in_for_nav2(prefix: Path) -> Path:
    """A folder in which launch_ros finds nav2_lifecycle_manager."""
    executable = prefix / "lib" / "nav2_lifecycle_manager" / "lifecycle_manager"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "nav2_lifecycle_manager"
    for path in (executable, marker):
        path.parent.mkdir(parents=True)
        path.touch()
    executable.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{HERE / 'stand_in_manager.py'}' \"$@\"\n")
    executable.chmod(0o755)
    return prefix


def test_replay_launch_plays_a_bag_for_ever(spawn: Any, checkpoint: Path, tmp_path: Path) -> None:
    frames = [street(index) for index in range(6)]
    bag = write_bag(
        tmp_path / "drive", "ros1", frames, "/rig/front/image_raw", other_topics=["/rig/left/image_raw"]
    )
    run_launch_test(spawn, "replay", TEST_CHECKPOINT=checkpoint, TEST_BAG=bag)
