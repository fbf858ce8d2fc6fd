"""What the modules of ros need before anything is configured."""

from __future__ import annotations

from typing import Any

from ros_client import TIMEOUT

import pvt_mtl_perception.ros

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm"]))  # importing them is an ImportError
import pvt_mtl_perception.ros as package
for module in pkgutil.iter_modules(package.__path__):
    print("imported", importlib.import_module(f"{package.__name__}.{module.name}").__name__)
"""


def test_every_module_is_imported_without_the_network(spawn: Any) -> None:
    child = spawn("-c", IMPORT_ALL)
    assert child.wait(TIMEOUT) == 0, child.output
    for name in ("perception_node", "camera", "bag_player", "autoware_converter"):
        assert f"imported {pvt_mtl_perception.ros.__name__}.{name}" in child.output
