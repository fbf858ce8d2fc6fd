"""What was decided before a study's first job, kept in its folder, with every change of it after that."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pvt_mtl_perception.study.config import changed_keys, fingerprint

FILE = "preregistration.jsonl"


def registrations(out: Path) -> list[dict[str, Any]]:
    """The versions that jobs were run under, the first one first.

    Returns:
        for each ``time`` (ISO 8601, UTC), ``sha256``, ``finished_jobs`` (how many there were by then),
        ``changed`` (dotted keys, against the version before) and ``content``.
    """
    path = out / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def register(out: Path, content: Mapping[str, Any], finished_jobs: int) -> list[dict[str, Any]]:
    """Stores what is decided, where it is the first version or not the last one stored.

    Args:
        out: the study's folder.
        content: from ``study.config.registered``.
        finished_jobs: results that exist.

    Returns:
        All versions, this one last.

    Raises:
        OSError: from the file system.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / FILE).open("a") as file:
        # Several runners may start at once.
        fcntl.flock(file, fcntl.LOCK_EX)
        versions = registrations(out)
        sha256 = fingerprint(content)
        if not versions or versions[-1]["sha256"] != sha256:
            version = {
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "sha256": sha256,
                "finished_jobs": finished_jobs,
                "changed": changed_keys(versions[-1]["content"], content) if versions else [],
                "content": content,
            }
            file.write(json.dumps(version) + "\n")
            file.flush()
            os.fsync(file.fileno())
            versions.append(version)
    return versions


def changes(out: Path, content: Mapping[str, Any]) -> list[str]:
    """A line for each change after the first job, the one that is not stored yet included."""
    versions = registrations(out)
    lines = [
        f"the pre-registration was changed on {version['time']}, after {version['finished_jobs']} finished "
        f"jobs: {', '.join(version['changed'])}"
        for version in versions[1:]
    ]
    if versions and versions[-1]["sha256"] != fingerprint(content):
        keys = changed_keys(versions[-1]["content"], content)
        lines.append(f"the study file differs from the pre-registration: {', '.join(keys)}")
    return lines
