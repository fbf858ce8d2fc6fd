"""The raw results of a study without weights and logs: what its report is made of, small enough to keep."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pvt_mtl_perception.data.sources import named_sources
from pvt_mtl_perception.study.affinity import FILE as AFFINITY
from pvt_mtl_perception.study.cost import FILE as COST
from pvt_mtl_perception.study.jobs import TUNING, Job, job_folder
from pvt_mtl_perception.study.registration import FILE as REGISTRATION
from pvt_mtl_perception.study.robustness import FILE as ROBUSTNESS


def archive_results(jobs: Sequence[Job], trials: Sequence[Job], out: Path, to: Path) -> int:
    """Copies what ``study report`` reads of the finished jobs, laid out as in the study's folder.

    A copy of ``to`` is a study's folder that can be gone on with: its finished jobs are not run again, and
    pretrainings, which are nothing without their weights, are.

    Args:
        jobs: the study's.
        trials: the study's, of which only the scores are kept.
        out: the study's folder.
        to: made when absent; files of an earlier call that are the same are left alone.

    Returns:
        The number of files that were written.

    Raises:
        FileNotFoundError: when no job is finished in ``out``.
        OSError: from the file system.
    """
    paths = [*_files(jobs, out), *(job_folder(out, job).result for job in trials if job.arm is not None)]
    if not any(path.is_file() for path in paths):
        raise FileNotFoundError(f"no job of the study is finished in {out}")
    written = 0
    for path in (*(out / name for name in (REGISTRATION, TUNING, COST)), *paths):
        target = to / path.relative_to(out)
        if not path.is_file() or (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        written += 1
    return written


def _files(jobs: Sequence[Job], out: Path) -> Iterator[Path]:
    for job in jobs:
        folder = job_folder(out, job)
        if job.arm is not None and folder.result.is_file():
            yield folder.result
            yield from (folder.records(name) for name in named_sources(job.config.evaluate))
            yield from (folder.path / name for name in (AFFINITY, ROBUSTNESS))
