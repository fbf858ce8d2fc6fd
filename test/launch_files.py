"""Launch files in tests: loaded, looked into, started."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    """``launch/<name>.launch.py`` as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "launch" / f"{name}.launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared(name: str) -> dict[str, Any]:
    """The declared arguments by name, those of included files too; the first declaration of a name counts."""
    description = load(name).generate_launch_description()
    arguments: dict[str, Any] = {}
    for argument, _ in description.get_launch_arguments_with_include_launch_description_actions():
        arguments.setdefault(argument.name, argument)
    return arguments


def default(argument: Any) -> str:
    """A declared argument's default."""
    return "".join(part.text for part in argument.default_value)


def ament_prefix_path() -> str:
    """Where launch_ros looks: what is sourced, then the environment that ``make env`` has made."""
    return os.pathsep.join(filter(None, [os.environ.get("AMENT_PREFIX_PATH"), sys.prefix]))


def has_package(name: str) -> bool:
    """Whether launch_ros finds this package."""
    marker = f"share/ament_index/resource_index/packages/{name}"
    return any((Path(prefix) / marker).exists() for prefix in ament_prefix_path().split(os.pathsep))


def skip_where_launch_ros_does_not_find(*executables: str) -> None:
    """Skips the test where this package is not installed, or has not these in lib/pvt_mtl_perception."""
    for prefix in map(Path, ament_prefix_path().split(os.pathsep)):
        if (prefix / "share/ament_index/resource_index/packages/pvt_mtl_perception").exists():
            break
    else:
        pytest.skip(f"pvt_mtl_perception is not installed in {ament_prefix_path()}")
    for name in executables:
        if not (prefix / "lib" / "pvt_mtl_perception" / name).exists():
            pytest.skip(f"{prefix} has no {name}")


def start(spawn: Any, name: str, **arguments: object) -> Any:
    """A launch file with arguments as a running child."""
    return spawn(
        REPOSITORY / "test" / "launch" / "run_launch.py",
        REPOSITORY / "launch" / f"{name}.launch.py",
        *(f"{argument}:={value}" for argument, value in arguments.items()),
        environment={"AMENT_PREFIX_PATH": ament_prefix_path()},
    )
