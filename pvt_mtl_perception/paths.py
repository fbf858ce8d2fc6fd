"""Where the package's own data files lie, in a checkout or installed, and how files are read and replaced."""

from __future__ import annotations

import glob
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PACKAGE = "pvt_mtl_perception"


@cache
def share_directory() -> Path:
    """The folder that holds ``config/``, ``launch/``, ``models/`` and ``rviz/``.

    In a source checkout that is the repository root; after ``pip install`` or ``colcon build`` it is
    ``<prefix>/share/pvt_mtl_perception``.

    Raises:
        FileNotFoundError: when neither exists, naming the folders that were looked at.
    """
    package = Path(__file__).resolve().parent
    looked = []
    for parent in package.parents:
        for candidate in (parent, parent / "share" / PACKAGE):
            looked.append(candidate)
            if (candidate / "config" / "labels").is_dir():
                return candidate
    raise FileNotFoundError(
        f"the data files of {PACKAGE} (config/labels) are in none of: "
        + ", ".join(str(folder) for folder in looked)
    )


def shipped_checkpoint() -> Path:
    """The model that comes with the package: the only ``.safetensors`` file in ``models/``.

    Raises:
        FileNotFoundError: when there is none or more than one, naming the folder.
    """
    folder = share_directory() / "models"
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(
            f"no model was named, and {folder} must then hold exactly one .safetensors file; "
            f"it holds: {names}"
        )
    return found[0]


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no YAML, naming it.
    """
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no JSON, naming it.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def to_disk(path: Path) -> None:
    """Returns when a file's content, or which files a folder has, outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_PARTIAL = ".partial"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the file system say that they are of ``path``: writing to an open file does not tell."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends, and is gone when it raises.

    So ``path`` holds the old content or the whole of the new one, also after a power cut.

    Raises:
        OSError: from the file system, naming ``path``, which is then as it was.
    """
    handle, name = tempfile.mkstemp(suffix=_PARTIAL, prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
            to_disk(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_of(path: Path) -> None:
    """Removes what processes that were killed within ``replaced(path)`` left; nobody writes to it now."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        partial.unlink()


def remove_partial(folder: Path) -> None:
    """Removes what processes that were killed within ``replaced`` left in a folder that nobody writes to."""
    # The second is what safetensors itself writes to first.
    for pattern in (f".*{_PARTIAL}", ".tmp??????"):
        for partial in folder.glob(pattern):
            partial.unlink()
