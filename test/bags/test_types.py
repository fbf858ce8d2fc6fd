"""The message types of written bags are the released ones."""

from __future__ import annotations

import pytest
from vision_msgs_hashes import RELEASED_HASHES

from pvt_mtl_perception.bags.types import typestore


@pytest.mark.parametrize("name", RELEASED_HASHES)
def test_type_hash_is_the_released_one(name: str) -> None:
    assert typestore().hash_rihs01(f"vision_msgs/msg/{name}") == f"RIHS01_{RELEASED_HASHES[name]}"
