"""What was decided before a study's first job, kept in its folder, with every change of it after that."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from pvt_mtl_perception.study.config import changed_keys, fingerprint

FILE = "preregistration.jsonl"


@contextmanager
def locked(out: Path) -> Iterator[TextIO]:
    """Holds a study's folder against other runners: what is read and written within is one step.

    Args:
        out: the folder, which exists.

    Yields:
        the file of registrations, opened to append.

    Raises:
        OSError: from the file system.
    """
    with (out / FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def registrations(out: Path) -> list[dict[str, Any]]:
    """The versions that jobs were run under, the first one first.

    Returns:
        for each ``time`` (ISO 8601, UTC), ``sha256``, ``finished_jobs`` and ``finished_trials`` (how many
        there were by then), ``changed`` (dotted keys, against the version before), ``added`` (keys that the
        version before did not record, which says nothing of what they were) and ``content``. Records of
        older versions of this package have neither ``finished_trials`` nor ``added``.
    """
    path = out / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return changed_keys(before, {key: value for key, value in after.items() if key in before})


def register(
    out: Path, content: Mapping[str, Any], finished_jobs: int, finished_trials: int = 0
) -> list[dict[str, Any]]:
    """Stores what is decided, where it is the first version or not the last one stored.

    Args:
        out: the study's folder.
        content: from ``study.config.registered``.
        finished_jobs: results that exist, those of trials apart.
        finished_trials: results of trials that exist.

    Returns:
        All versions, this one last.

    Raises:
        OSError: from the file system.
    """
    out.mkdir(parents=True, exist_ok=True)
    # Several runners may start at once.
    with locked(out) as file:
        versions = registrations(out)
        sha256 = fingerprint(content)
        if not versions or versions[-1]["sha256"] != sha256:
            version = {
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "sha256": sha256,
                "finished_jobs": finished_jobs,
                "finished_trials": finished_trials,
                "changed": _changed(versions[-1]["content"], content) if versions else [],
                "added": [key for key in content if versions and key not in versions[-1]["content"]],
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
        f"the pre-registration was changed on {version['time']}, after {_finished(version)}: "
        f"{', '.join(version['changed'])}"
        for version in versions[1:]
        if version["changed"]
    ]
    if versions and (keys := _changed(versions[-1]["content"], content)):
        lines.append(f"the study file differs from the pre-registration: {', '.join(keys)}")
    return lines


def unrecorded(out: Path, content: Mapping[str, Any]) -> list[str]:
    """A line on what the first version does not hold, of whose changes therefore nothing is known."""
    versions = registrations(out)
    if not versions:
        return []
    missing = [key for key in content if key not in versions[0]["content"]]
    lines = []
    for version in versions[1:]:
        if found := [key for key in missing if key in version["content"]]:
            lines.append(
                f"{', '.join(found)} of the pre-registration were recorded on {version['time']} only, after "
                f"{_finished(version)}; what they were before is not known"
            )
            missing = [key for key in missing if key not in found]
    if missing:
        lines.append(
            f"the pre-registration does not record {', '.join(missing)}; whether they changed after the "
            "first job is not known"
        )
    return lines


def _finished(version: Mapping[str, Any]) -> str:
    jobs = f"{version['finished_jobs']} finished jobs"
    trials = version.get("finished_trials", 0)
    return f"{jobs} and {trials} finished trials" if trials else jobs
