"""Files that take long to make and are kept for the next process: exported graphs and built engines."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from pvt_mtl_perception.paths import PACKAGE

# A graph or engine is as large as its checkpoint; a study's many checkpoints must not fill the disk.
KEPT_FILES = 24

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``pvt_mtl_perception`` below ``XDG_CACHE_HOME``, which is ``~/.cache`` where it is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / PACKAGE


def read_cached(name: str) -> bytes | None:
    """The content of a kept file, or None where there is none that can be read."""
    path = cache_folder() / name
    try:
        content = path.read_bytes()
        # The time of the last use decides which files stay.
        os.utime(path)
        return content
    except OSError:
        return None


def write_cached(name: str, content: bytes) -> Path | None:
    """Keeps a file, whole or not at all, and drops the ones that were not used for longest.

    Returns:
        Where it lies, or None where the cache folder cannot be written, which is logged and no error.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, folder / name)
        finally:
            Path(temporary).unlink(missing_ok=True)
        by_age = sorted(
            (path for path in folder.iterdir() if not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for path in by_age[KEPT_FILES:]:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s cannot be kept for the next start: %s", name, error)
        return None
    return folder / name
