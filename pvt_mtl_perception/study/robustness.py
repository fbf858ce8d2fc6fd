"""Scores of a study's finished jobs under corruptions of their test images, kept beside each job's result."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pvt_mtl_perception.data.sources import SourceConfig, named_sources, open_source
from pvt_mtl_perception.evaluation.corruptions import CorruptedSource
from pvt_mtl_perception.evaluation.evaluator import measure
from pvt_mtl_perception.evaluation.run import own_taxonomy, with_mappings
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.study.config import StudyConfig
from pvt_mtl_perception.study.folder import NMS_THRESHOLD, STUDY_VARIABLE, JobFolder, write_atomically
from pvt_mtl_perception.study.jobs import Job, job_folder
from pvt_mtl_perception.study.runner import end_time, terminate_as_interrupt

FOLDER = "robustness"
FILE = f"{FOLDER}/scores.json"
"""In a job's folder: ``sources``, the scores of the images as they are by source, and ``corruptions``, those
by corruption, strength and source, as of ``pvt-mtl eval``; ``settings`` where this module wrote it."""

_UNFINISHED = f"{FOLDER}/unfinished.json"

CLEAN = ""
"""In place of a corruption: the images as they are."""

Pass = tuple[str, str, int]
"""Source's name, corruption or ``CLEAN``, strength (0 for ``CLEAN``): one look at all images."""


@dataclass(frozen=True)
class Conditions:
    """What jobs are measured under.

    Attributes:
        corruptions: names in ``CORRUPTIONS``.
        strengths: 1 to 5.
        frames: use at most so many images of each test set, as ``SourceConfig.limit``; all where None.
    """

    corruptions: Sequence[str]
    strengths: Sequence[int]
    frames: int | None = None


@dataclass(frozen=True)
class Measured:
    """What a call of ``measure_robustness`` left.

    Attributes:
        done: jobs whose scores are there.
        skipped: why others are not measured, a line each.
    """

    done: int
    skipped: list[str]


class _Scores:
    """One job's scores on disk, complete or not."""

    def __init__(
        self, folder: JobFolder, sources: Mapping[str, SourceConfig], conditions: Conditions
    ) -> None:
        self.folder = folder
        self.sources = dict(sources)
        self.conditions = conditions
        result = folder.read_result()
        self.settings = {"frames": conditions.frames, "of": result.get("finished")}
        self.complete = self._read(FILE)
        self.scores = self._read(_UNFINISHED) | self.complete
        if conditions.frames is None:
            # The job itself was scored on them.
            clean = {(source, CLEAN, 0): result["scores"].get(source) for source in self.sources}
            self.scores = {one: found for one, found in clean.items() if found is not None} | self.scores

    @property
    def is_foreign(self) -> bool:
        """Whether there are scores that ``pvt-mtl eval`` wrote."""
        path = self.folder.path / FILE
        return path.is_file() and "settings" not in json.loads(path.read_text())

    @property
    def passes(self) -> list[Pass]:
        """All that are wanted."""
        wanted = [(source, CLEAN, 0) for source in self.sources]
        return wanted + [
            (source, corruption, strength)
            for source in self.sources
            for corruption in self.conditions.corruptions
            for strength in self.conditions.strengths
        ]

    @property
    def missing(self) -> list[Pass]:
        """Those that are not there yet."""
        return [one for one in self.passes if one not in self.scores]

    def add(self, one: Pass, scores: dict[str, Any]) -> None:
        """Stores a pass, so that an interruption costs the one that runs."""
        self.scores[one] = scores
        self._write(_UNFINISHED, self.scores)

    def finish(self) -> None:
        """The report reads what is wanted now, beside what it read before."""
        # What an interrupted call for other corruptions left is no mean over its strengths.
        wanted = self.complete.keys() | set(self.passes)
        if wanted != self.complete.keys():
            self._write(FILE, {one: scores for one, scores in self.scores.items() if one in wanted})
        if wanted >= self.scores.keys():
            (self.folder.path / _UNFINISHED).unlink(missing_ok=True)

    def _read(self, name: str) -> dict[Pass, dict[str, Any]]:
        path = self.folder.path / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        if content.get("settings") != self.settings:
            return {}
        scores: dict[Pass, dict[str, Any]] = {(k, CLEAN, 0): v for k, v in content["sources"].items()}
        for corruption, by_strength in content["corruptions"].items():
            for strength, by_source in by_strength.items():
                scores |= {(k, corruption, int(strength)): v for k, v in by_source.items()}
        return scores

    def _write(self, name: str, scores: dict[Pass, dict[str, Any]]) -> None:
        content: dict[str, Any] = {"settings": self.settings, "sources": {}, "corruptions": {}}
        for (source, corruption, strength), found in sorted(scores.items(), key=lambda item: item[0]):
            place = content["sources"]
            if corruption != CLEAN:
                place = content["corruptions"].setdefault(corruption, {}).setdefault(str(strength), {})
            place[source] = found
        write_atomically(self.folder.path / name, json.dumps(content, indent=1) + "\n")


def measure_robustness(
    study: StudyConfig, jobs: Sequence[Job], out: Path, conditions: Conditions, device: str = "auto"
) -> Measured:
    """Scores the weights of finished jobs on the test images as they are and corrupted.

    Scored are the sources that endpoints are read from. Every pass over a source's images is stored when it
    is done, and none is done twice; another process may measure other jobs of the same folder meanwhile. A
    shorter list of corruptions keeps what there is; another number of frames is measured anew.

    Args:
        study: the study.
        jobs: which, of all fractions and seeds that are wanted; those that are not finished are skipped.
        out: the study's folder.
        conditions: what they are measured under.
        device: as of ``Predictor``.

    Raises:
        FileNotFoundError, ValueError: from the data sources, for an unknown corruption or strength, and from
            ``Predictor``.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the same call goes on from there.
    """
    read = {endpoint.source for endpoint in study.preregistration.endpoints}
    skipped: list[str] = []
    todo: list[tuple[Job, _Scores]] = []
    for job in jobs:
        folder = job_folder(out, job)
        if not folder.result.is_file():
            skipped.append(f"{job.id} is not finished")
            continue
        evaluated = named_sources(job.config.evaluate)
        sources = {name: source for name, source in evaluated.items() if name in read}
        scores = _Scores(folder, sources, conditions)
        if scores.is_foreign:
            skipped.append(f"{job.id} has scores of `pvt-mtl eval`; remove {folder.path / FILE} for others")
        elif not (folder.path / "model.safetensors").is_file():
            skipped.append(f"{job.id} has no weights in {folder.path}")
        else:
            todo.append((job, scores))
    done, began = 0, time.monotonic()
    total = sum(len(scores.passes) for _, scores in todo)
    with (
        _folder_in_environment(out),
        terminate_as_interrupt(),
        tqdm(
            total=total,
            initial=total - sum(len(scores.missing) for _, scores in todo),
            unit="pass",
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
        ) as bar,
    ):

        def show(number: int) -> None:
            passed = bar.n - bar.initial
            left = (time.monotonic() - began) / passed * (bar.total - bar.n) if passed else None
            text = f"{number}/{len(todo)} jobs, {bar.n}/{bar.total} passes, end {end_time(left)}"
            # Into a file it goes only when a job is done.
            bar.set_description_str(text, refresh=sys.stderr.isatty() or not text.startswith(bar.desc[:4]))

        show(0)
        for number, (job, scores) in enumerate(todo):
            place = JobFolder(scores.folder.path / FOLDER)
            place.path.mkdir(exist_ok=True)
            with place.claim() as mine:
                if not mine:
                    skipped.append(f"{job.id} is being measured by another process")
                    bar.total -= len(scores.missing)
                    continue
                for one, found in _measure_job(scores, device):
                    scores.add(one, found)
                    bar.update()
                    show(number)
                if absent := sorted({source for source, _, _ in scores.missing}):
                    skipped.append(f"{job.id}: no folder of {', '.join(absent)}")
                    bar.total -= len(scores.missing)
                    continue
                scores.finish()
            done += 1
            show(number + 1)
    return Measured(done, skipped)


def _measure_job(scores: _Scores, device: str) -> Iterator[tuple[Pass, dict[str, Any]]]:
    """The passes that are missing, but for sources that are optional and absent."""
    if not scores.missing:
        return
    weights = scores.folder.path / "model.safetensors"
    predictor = Predictor(weights, device=device, nms_threshold=NMS_THRESHOLD)
    frames = scores.conditions.frames
    for name, source in scores.sources.items():
        passes = [one for one in scores.missing if one[0] == name]
        if not passes:
            continue
        limit = source.limit if frames is None else min(frames, source.limit or frames)
        data = open_source(dataclasses.replace(source, limit=limit), with_mappings(predictor.labels))
        if data is None:
            continue
        taxonomy = own_taxonomy(source, data.labels)
        for one in passes:
            _, corruption, strength = one
            images = data if corruption == CLEAN else CorruptedSource(data, corruption, strength)
            yield one, measure(predictor, images, taxonomy, progress=False).scores()


@contextmanager
def _folder_in_environment(out: Path) -> Iterator[None]:
    """As in a job's process: data sources may name the study's folder."""
    before = os.environ.get(STUDY_VARIABLE)
    os.environ[STUDY_VARIABLE] = str(out.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[STUDY_VARIABLE]
        else:
            os.environ[STUDY_VARIABLE] = before
