"""What the node's tests share: an untrained checkpoint, and starters of nodes and cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from ros_client import TIMEOUT, RosClient

CAMERA = Path(__file__).resolve().parents[1] / "ros_camera.py"
StartNode = Callable[..., Any]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all tasks and random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "untrained.safetensors")


def node_arguments(script: Path | None = None, **parameters: Any) -> list[str]:
    """Arguments of python that start the node, or a script that starts it, with these parameters."""
    node = [str(script)] if script else ["-m", "pvt_mtl_perception.ros.perception_node"]
    arguments = [*node, "--ros-args"]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    return arguments


@pytest.fixture(scope="module")
def start_node(module_spawn: Any) -> StartNode:
    """Starts a node of the module's domain in a process of its own, with further arguments for ROS."""

    def start(*arguments: str, environment: Mapping[str, str] | None = None, **parameters: Any) -> Any:
        return module_spawn(
            *node_arguments(**parameters),
            *arguments,
            environment={"OMP_NUM_THREADS": "1", **(environment or {})},
        )

    return start


@pytest.fixture(scope="module")
def start_camera(module_spawn: Any) -> StartNode:
    """Starts a camera of the module's domain in a process of its own; see ``ros_camera``."""

    def start(*arguments: str) -> Any:
        camera = module_spawn(CAMERA, *arguments)
        camera.wait_for("publishing", TIMEOUT)
        return camera

    return start


@pytest.fixture(scope="module")
def client(module_spawn: Any) -> Iterator[RosClient]:
    """The test's own ROS participant."""
    participant = RosClient(int(module_spawn.environment["ROS_DOMAIN_ID"]))
    yield participant
    participant.close()
