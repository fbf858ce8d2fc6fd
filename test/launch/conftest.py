"""What the tests of launch files share: an untrained checkpoint and a ROS participant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from ros_client import RosClient


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all tasks and random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "untrained.safetensors")


@pytest.fixture
def client(spawn: Any) -> Iterator[RosClient]:
    """The test's own ROS participant."""
    participant = RosClient(int(spawn.environment["ROS_DOMAIN_ID"]))
    yield participant
    participant.close()
