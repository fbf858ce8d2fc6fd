"""A regular `pip install` leaves everything where ROS 2 and the package itself look for it."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pvt_mtl_perception import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "pvt_mtl_perception"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """What `pip install --no-deps .` of the tracked files puts below a prefix of its own."""
    source = tmp_path_factory.mktemp("source")
    # A copy, because setuptools builds inside the source folder; without the environment and the outputs.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(REPOSITORY / name, source / name)
    prefix = tmp_path_factory.mktemp("prefix")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--ignore-installed", "--prefix", str(prefix), str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return prefix


@pytest.fixture(scope="module")
def environment(prefix):
    """The environment of a shell in which ``prefix`` is on the paths and the source folder is not."""
    site_packages = next(prefix.glob("lib/python*/site-packages"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join(filter(None, [str(site_packages), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": python_path, "PATH": path, "PYTHONSAFEPATH": "1"}


def test_data_files_lie_where_ros_looks(prefix):
    share = prefix / "share" / PACKAGE

    assert (prefix / "share/ament_index/resource_index/packages" / PACKAGE).is_file()
    for name in ("config", "launch", "models", "rviz"):
        source = {
            file.relative_to(REPOSITORY)
            for file in (REPOSITORY / name).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
        }
        installed = {
            file.relative_to(share)
            for file in (share / name).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        assert installed == source
    assert (share / "config" / "labels" / "driving_segmentation.yaml").is_file()


def test_installed_copy_finds_its_own_data(prefix, environment, tmp_path):
    question = (
        "import pvt_mtl_perception.paths as paths; print(paths.__file__); print(paths.share_directory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", question],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    module, share = map(Path, done.stdout.split())

    assert prefix in module.parents
    assert share == prefix / "share" / PACKAGE


def test_node_executable_runs_the_installed_node(prefix, environment, tmp_path):
    environment = dict(environment)
    pytest.importorskip("rclpy")
    executable = prefix / "lib" / PACKAGE / "perception_node"
    arguments = ["--ros-args", "-p", "score_threshold:=7.0"]
    # What else lies in the folder that it is started from is nobody's module.
    (tmp_path / "queue.py").write_text("raise SystemExit('imported from the working directory')")
    del environment["PYTHONSAFEPATH"]

    done = subprocess.run(
        [str(executable), *arguments],
        cwd=tmp_path,
        env={**environment, "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "score_threshold" in done.stderr


def test_command_line_is_installed(prefix, environment, tmp_path):
    done = subprocess.run(
        [str(prefix / "bin" / "pvt-mtl"), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "usage: pvt-mtl" in done.stdout


def test_manifest_and_package_agree():
    manifest = ElementTree.parse(REPOSITORY / "package.xml").getroot()

    assert manifest.findtext("name") == PACKAGE
    assert manifest.findtext("version") == __version__
    assert manifest.findtext("license") == "Apache-2.0"
    assert manifest.findtext("export/build_type") == "ament_python"


def test_pickles_are_loaded_in_one_place_and_as_weights_only():
    calls = {}
    for path in sorted((REPOSITORY / PACKAGE).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "pickle.load",
                "pickle.loads",
            ):
                calls[path.relative_to(REPOSITORY).as_posix()] = {
                    k.arg: ast.unparse(k.value) for k in node.keywords
                }

    assert set(calls) == {f"{PACKAGE}/model/pretrained.py"}
    assert calls[f"{PACKAGE}/model/pretrained.py"]["weights_only"] == "True"


def test_opencv_4_6_has_every_name_that_is_used():
    # All names of OpenCV 4.6, which Ubuntu 24.04 has and setup.py allows:
    # print(textwrap.fill(" ".join(dir(cv2)), 110))
    names = set((REPOSITORY / "test" / "data" / "opencv_4_6_names.txt").read_text().split())
    used = {}
    for folder in (PACKAGE, "benchmarks", "scripts", "test"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cv2":
                    used.setdefault(node.attr, f"{path.relative_to(REPOSITORY)}:{node.lineno}")

    assert len(used) > 50
    assert {name: place for name, place in used.items() if name not in names} == {}


def test_an_environment_that_is_up_to_date_is_left_alone(tmp_path, monkeypatch, capsys):
    path = REPOSITORY / "scripts" / "setup_environment.py"
    spec = importlib.util.spec_from_file_location("setup_environment", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    done = []
    # A sourced ROS 2 would come before the wheels.
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setattr(script, "check_machine", lambda distro: done.append("checked"))
    monkeypatch.setattr(script, "make_venv", lambda venv, distro: done.append("made"))
    monkeypatch.setattr(script, "install_packages", lambda venv, distro, wheels: done.append(wheels))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()

    script.set_up(tmp_path)
    assert done == ["checked", "made", "jazzy"]
    script.set_up(tmp_path)
    assert done == ["checked", "made", "jazzy"]
    printed = capsys.readouterr().out
    assert printed.count("The environment is ready") == 1
    assert f"source {tmp_path}/bin/activate" in printed

    (tmp_path / "setup-key").write_text("of other requirements")
    script.set_up(tmp_path)
    assert done == 2 * ["checked", "made", "jazzy"]

    script.set_up(tmp_path, "kilted")
    assert done[6:] == ["checked", "made", "kilted"]
