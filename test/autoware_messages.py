"""Autoware's messages in tests: those that are installed or, where none are, the few in ``test/autoware``."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
BUILDER = HERE.parent / "interfaces" / "build_messages.py"
# The second has fields of the first.
PACKAGES = ("autoware_perception_msgs", "tier4_perception_msgs")
ROS_DEPENDENCIES = ("builtin_interfaces", "geometry_msgs", "sensor_msgs", "std_msgs")
HAS_MESSAGES = importlib.util.find_spec("tier4_perception_msgs") is not None


def provide_autoware_messages(spawn: Any, config: pytest.Config) -> None:
    """Children that ``spawn`` starts from now on can import tier4_perception_msgs.

    Where it is not installed it is built, once for all processes and runs, into pytest's cache; the test is
    skipped where the tools for that are missing.
    """
    if HAS_MESSAGES:
        return
    builder = load_builder()
    if missing := builder.missing_tools():
        pytest.skip(f"tier4_perception_msgs is not installed and not built without {', '.join(missing)}")
    prefix = built(builder, config.cache.mkdir("autoware_messages"))
    for variable, folder in (("PYTHONPATH", site_packages(prefix)), ("LD_LIBRARY_PATH", prefix / "lib")):
        others = spawn.environment.get(variable)
        spawn.environment[variable] = os.pathsep.join(filter(None, [str(folder), others]))


def load_builder() -> ModuleType:
    """What builds vision_msgs."""
    spec = importlib.util.spec_from_file_location("build_messages", BUILDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(builder: ModuleType, folder: Path) -> Path:
    """An install prefix in ``folder`` with both packages, built unless an earlier run's is still right."""
    prefix, key = folder / "prefix", folder / "key"
    wanted = build_key(builder)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if key.is_file() and key.read_text() == wanted:
            return prefix
        key.unlink(missing_ok=True)
        shutil.rmtree(prefix, ignore_errors=True)
        dependencies = {name: builder.prefix_of(name) for name in ROS_DEPENDENCIES}
        for name in PACKAGES:
            package = builder.MessagePackage(HERE / "autoware" / name, dict(dependencies))
            files = builder.build_messages(package, folder / "build", site_packages(prefix) / name)
            for place, sources in files:
                (prefix / place).mkdir(parents=True, exist_ok=True)
                for source in sources:
                    shutil.copy(source, prefix / place)
            dependencies[name] = prefix
        key.write_text(wanted)
    return prefix


def site_packages(prefix: Path) -> Path:
    return prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def build_key(builder: ModuleType) -> str:
    """A digest of everything whose change makes a build stale."""
    digest = hashlib.sha256(sys.version.encode())
    packages = (*builder.GENERATORS, *ROS_DEPENDENCIES)
    manifests = [builder.prefix_of(name) / "share" / name / "package.xml" for name in packages]
    for file in (BUILDER, *sorted((HERE / "autoware").rglob("*.msg")), *manifests):
        digest.update(f"\n{file}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
