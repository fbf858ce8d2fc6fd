"""Files that take long to make and are kept for the next process: exported graphs and built engines."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from pvt_mtl_perception.paths import PACKAGE, replaced

# A graph or engine is as large as its checkpoint; a study's many checkpoints must not fill the disk.
KEPT_FILES = 24

_DIGEST_SIZE = 32

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``pvt_mtl_perception`` below ``XDG_CACHE_HOME``, which is ``~/.cache`` where it is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / PACKAGE


def read_cached(name: str) -> bytes | None:
    """The content of a kept file, or None where there is none that can be read, or a damaged one."""
    path = cache_folder() / name
    try:
        kept = path.read_bytes()
        # The time of the last use decides which files stay.
        os.utime(path)
    except OSError:
        return None
    content, digest = kept[:-_DIGEST_SIZE], kept[-_DIGEST_SIZE:]
    if _digest(content) != digest:
        _log.warning("%s is damaged and is made anew", path)
        return None
    return content


def write_cached(name: str, content: bytes) -> Path | None:
    """Keeps a content in a file that ends in its SHA-256, whole or not at all.

    The files that were not used for longest are dropped.

    Returns:
        Where it lies, or None where the cache folder cannot be written, which is logged and no error.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / name) as temporary:
            temporary.write_bytes(content + _digest(content))
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


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
