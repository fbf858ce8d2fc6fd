"""The raw results of a study without weights and logs: what its report is made of, small enough to keep."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pvt_mtl_perception.study.affinity import FILE as AFFINITY
from pvt_mtl_perception.study.cost import FILE as COST
from pvt_mtl_perception.study.folder import JobFolder
from pvt_mtl_perception.study.jobs import TUNING, Job, job_folder
from pvt_mtl_perception.study.registration import FILE as REGISTRATION
from pvt_mtl_perception.study.robustness import FILE as ROBUSTNESS


def archive_results(jobs: Sequence[Job], out: Path, to: Path) -> int:
    """Copies what ``study report`` reads of the finished jobs, laid out as in the study's folder.

    A copy of ``to`` is a study's folder that can be gone on with: its finished jobs are not run again, and
    pretrainings, which are nothing without their weights, are.

    Args:
        jobs: all of the study, trials among them.
        out: the study's folder.
        to: made when absent; files of an earlier call that are the same are left alone.

    Returns:
        The number of files that were written.

    Raises:
        FileNotFoundError: when no job is finished in ``out``.
        OSError: from the file system.
    """
    folders = [job_folder(out, job) for job in jobs if job.arm is not None]
    finished = [folder for folder in folders if folder.result.is_file()]
    if not finished:
        raise FileNotFoundError(f"no job of the study is finished in {out}")
    written = 0
    for path in (*(out / name for name in (REGISTRATION, TUNING, COST)), *_files(finished)):
        target = to / path.relative_to(out)
        if not path.is_file() or (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        written += 1
    return written


def _files(folders: Sequence[JobFolder]) -> Iterator[Path]:
    for folder in folders:
        yield folder.result
        yield from sorted(folder.records("*").parent.glob("*.npz"))
        yield from (folder.path / name for name in (AFFINITY, ROBUSTNESS))
