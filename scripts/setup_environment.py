"""Makes the virtual environment that `make` runs everything in, or finds that it is up to date.

Where ROS 2 is sourced, the environment sees that installation and adds only what it lacks. Elsewhere it gets
ROS 2 Jazzy or Kilted as wheels, and vision_msgs built from interfaces/vision_msgs.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "pvt_mtl_perception"

# What a regular install puts below the prefix and pip leaves out of an editable one.
LINKS = {
    **{f"share/{PACKAGE}/{name}": name for name in ("config", "launch", "models", "rviz", "package.xml")},
    f"share/ament_index/resource_index/packages/{PACKAGE}": f"resource/{PACKAGE}",
    **{
        f"lib/{PACKAGE}/{name}": f"scripts/{name}"
        for name in ("perception_node", "autoware_converter", "bag_player")
    },
}
WHEEL_PYTHONS = ((3, 10), (3, 13))
WHEEL_DISTROS = ("jazzy", "kilted")

# Modules of a ROS installation, each with the end of its apt package's name.
REQUIRED_ROS_MODULES = {
    "diagnostic_msgs": "diagnostic-msgs",
    "lifecycle_msgs": "lifecycle-msgs",
    "sensor_msgs": "sensor-msgs",
    "vision_msgs": "vision-msgs",
}
REQUIRED_SYSTEM_MODULES = {"cv2": "python3-opencv", "numpy": "python3-numpy"}
OPTIONAL_ROS_MODULES = {"cv_bridge": "cv-bridge"}


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv", help="where the environment lies")
    parser.add_argument(
        "--ros",
        choices=WHEEL_DISTROS,
        default=WHEEL_DISTROS[0],
        help="whose wheels to take where no ROS 2 is sourced",
    )
    arguments = parser.parse_args()
    try:
        set_up(Path(os.path.abspath(arguments.venv)), arguments.ros)
    except SetupError as error:
        print(f"\nThe environment could not be set up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The next run continues where this one stopped.", file=sys.stderr)
        return 130
    return 0


def set_up(venv: Path, wheels: str = WHEEL_DISTROS[0]) -> None:
    """Bring ``venv`` up to date, with the wheels of a distribution where no ROS 2 is sourced.

    Raises:
        SetupError: when something the machine lacks, or a failed step, stands in the way.
    """
    distro = sourced_ros()
    stamp = venv / "setup-key"
    key = setup_key(venv, distro, wheels)
    if stamp.is_file() and stamp.read_text() == key and (venv / "bin" / "python").exists():
        return

    check_machine(distro)
    with open(__file__) as lock:
        # Two runs at once would install into each other.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == key:
            return
        stamp.unlink(missing_ok=True)
        make_venv(venv, distro)
        install_packages(venv, distro, wheels)
        # Last, so that whatever was interrupted is done again.
        stamp.write_text(key)
    print(f"The environment is ready. For pvt-mtl on the path of this shell:\n    source {venv}/bin/activate")


def sourced_ros() -> str | None:
    """The name of the sourced ROS 2 distribution, or None where none is sourced.

    Raises:
        SetupError: when one is sourced that this python cannot use.
    """
    distro = os.environ.get("ROS_DISTRO")
    if not (distro and os.environ.get("AMENT_PREFIX_PATH")):
        return None
    tried = subprocess.run(
        [sys.executable, "-c", "import rclpy"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        reason = tried.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SetupError(
            f"ROS 2 {distro} is sourced, but {sys.executable} cannot import its rclpy ({reason[0]}).\n"
            f"Either use the python it was built for (make PYTHON=/usr/bin/python3 …), install rclpy "
            f"(sudo apt install ros-{distro}-rclpy), or run in a shell without ROS 2 sourced."
        )
    return distro


def setup_key(venv: Path, distro: str | None, wheels: str) -> str:
    """A digest of everything whose change makes the environment stale."""
    files = [
        Path(__file__),
        REPOSITORY / "setup.py",
        REPOSITORY / "setup.cfg",
        *sorted((REPOSITORY / "requirements").glob("*.txt")),
        REPOSITORY / "interfaces" / "build_messages.py",
        *sorted((REPOSITORY / "interfaces" / "vision_msgs").glob("*.*")),
        *sorted((REPOSITORY / "interfaces" / "vision_msgs" / "msg").glob("*.msg")),
    ]
    digest = hashlib.sha256()
    ros = (distro, os.environ["AMENT_PREFIX_PATH"]) if distro else wheels
    digest.update(json.dumps([str(venv), str(REPOSITORY), sys.version, sys.base_prefix, ros]).encode())
    for file in files:
        if file.is_file():
            digest.update(f"\n{file.relative_to(REPOSITORY)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def check_machine(distro: str | None) -> None:
    """Look for what has to come from the system.

    Raises:
        SetupError: naming everything that is missing and the apt packages that hold it.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if distro:
        check_ros_modules(distro)
    elif not WHEEL_PYTHONS[0] <= sys.version_info[:2] <= WHEEL_PYTHONS[1]:
        raise SetupError(
            f"the ROS 2 wheels are for Python 3.10 to 3.13, and {sys.executable} is Python {version}. "
            "Name another one: make PYTHON=python3.12 …"
        )
    elif (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            f"the ROS 2 wheels are for x86-64 Linux, and this is {platform.machine()} {platform.system()}. "
            "Install ROS 2, source it, and run again."
        )

    missing = {}
    if not _has_module("venv") or not _has_module("ensurepip"):
        missing["the venv module"] = f"python{version}-venv"
    if not distro:
        if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
            missing["Python.h"] = f"python{version}-dev"
        for compiler in (os.environ.get("CC", "gcc"), os.environ.get("CXX", "g++")):
            if shutil.which(compiler) is None:
                missing[compiler] = compiler
    if missing:
        raise SetupError(
            f"{', '.join(missing)} not found for {sys.executable}.\n"
            f"    sudo apt install {' '.join(missing.values())}"
        )


def check_ros_modules(distro: str) -> None:
    """Look for the modules that the sourced ROS 2 has to provide.

    Raises:
        SetupError: naming those that are missing and their apt packages.
    """
    packages = {
        **{name: f"ros-{distro}-{package}" for name, package in REQUIRED_ROS_MODULES.items()},
        **REQUIRED_SYSTEM_MODULES,
    }
    missing = {name: package for name, package in packages.items() if not _has_module(name)}
    if missing:
        raise SetupError(
            f"ROS 2 {distro} is sourced, but {', '.join(missing)} cannot be imported.\n"
            f"    sudo apt install {' '.join(missing.values())}"
        )
    for name, package in OPTIONAL_ROS_MODULES.items():
        if not _has_module(name):
            print(
                f"{name} is not installed; images in unusual encodings will be refused "
                f"(sudo apt install ros-{distro}-{package})"
            )


def _has_module(name: str) -> bool:
    tried = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False)
    return tried.returncode == 0


def make_venv(venv: Path, distro: str | None) -> None:
    """Create the environment unless a usable one of the same python is there."""
    if (venv / "pyvenv.cfg").is_file():
        if _is_usable(venv, distro):
            return
        print(f"{venv} was made for another python or place, or never finished: making it anew")
    print(f"Making {venv} with Python {platform.python_version()} ({sys.executable})", flush=True)
    options = ["--clear", *(["--system-site-packages"] if distro else [])]
    _run([sys.executable, "-m", "venv", *options, str(venv)], "creating the virtual environment")


def _is_usable(venv: Path, distro: str | None) -> bool:
    settings = (venv / "pyvenv.cfg").read_text()
    sees_system = "include-system-site-packages = true" in settings
    question = "import sys, pip; print(sys.version, sys.base_prefix)"
    answer = subprocess.run(
        [str(venv / "bin" / "python"), "-c", question],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    pip = venv / "bin" / "pip"
    return (
        answer.stdout.strip() == f"{sys.version} {sys.base_prefix}"
        and sees_system == bool(distro)
        and pip.is_file()
        and str(venv) in pip.read_text()
    )


def install_packages(venv: Path, distro: str | None, wheels: str) -> None:
    """Install everything the environment needs; what is there already stays."""
    requirements = REPOSITORY / "requirements"
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    source = "ros-installed.txt" if distro else f"ros-{wheels}.txt"
    listed = [requirements / source, requirements / "dev.txt"]
    constraints = []
    if distro:
        held = venv / "constraints.txt"
        held.write_text(f"numpy=={_system_numpy()}\n")
        constraints = ["-c", str(held)]
    arguments = [part for file in listed for part in ("-r", str(file))]
    print("Installing packages: about 6 GB on disk, a few minutes the first time", flush=True)
    _run([*pip, *arguments, *constraints], "installing the packages of requirements/")
    if not distro:
        print("Building vision_msgs: about half a minute", flush=True)
        # With the generators of the environment: pip would download all of them again for a build of its own.
        _run(
            [*pip, "--no-build-isolation", "--no-deps", str(REPOSITORY / "interfaces" / "vision_msgs")],
            "building interfaces/vision_msgs",
            quiet=True,
        )
    _run(
        [*pip, "--no-build-isolation", "--no-deps", "--editable", str(REPOSITORY)],
        f"installing {PACKAGE} itself",
        quiet=True,
    )
    for place, source in LINKS.items():
        link = venv / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(REPOSITORY / source)


def _system_numpy() -> str:
    question = "import numpy; print(numpy.__version__)"
    return subprocess.run(
        [sys.executable, "-c", question], capture_output=True, text=True, check=True
    ).stdout.strip()


def _environment() -> dict[str, str]:
    """Without what the ROS wheels' start-up hook of another environment may have left behind."""
    environment = dict(os.environ)
    if environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
        environment.pop("LD_LIBRARY_PATH", None)
    return environment


def _run(command: list[str], what: str, quiet: bool = False) -> None:
    done = subprocess.run(
        command,
        check=False,
        env=_environment(),
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode:
        sys.stdout.buffer.write(done.stdout or b"")
        sys.stdout.flush()
        raise SetupError(
            f"{what} failed; what it said stands above. Once that is mended, run the same command again: "
            "what is installed already is kept."
        )


if __name__ == "__main__":
    sys.exit(main())
