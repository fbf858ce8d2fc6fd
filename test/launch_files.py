"""Launch files in tests: loaded, looked into, started."""

from __future__ import annotations

import importlib.util
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


def skip_where_launch_ros_does_not_find(*executables: str) -> None:
    """Skips the test where this package is not installed, or has not these in lib/pvt_mtl_perception."""
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        prefix = Path(packages.get_package_prefix("pvt_mtl_perception"))
    except (OSError, LookupError):
        pytest.skip("the package is not installed where AMENT_PREFIX_PATH points")
    for name in executables:
        if not (prefix / "lib" / "pvt_mtl_perception" / name).exists():
            pytest.skip(f"{prefix} has no {name}")


def start(spawn: Any, name: str, **arguments: object) -> Any:
    """A launch file with arguments as a running child."""
    return spawn(
        REPOSITORY / "test" / "launch" / "run_launch.py",
        REPOSITORY / "launch" / f"{name}.launch.py",
        *(f"{argument}:={value}" for argument, value in arguments.items()),
    )
