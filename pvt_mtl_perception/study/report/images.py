"""What the records of the test images add: intervals over seeds and images, and scores by condition."""

from __future__ import annotations

import dataclasses
import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pvt_mtl_perception.data.camvid import BLOCK_FRAMES
from pvt_mtl_perception.evaluation.records import Records, load_records
from pvt_mtl_perception.study.comparisons import Compared
from pvt_mtl_perception.study.config import EndpointConfig
from pvt_mtl_perception.study.report.results import StudyResults
from pvt_mtl_perception.study.statistics.bootstrap import (
    NestedBootstrap,
    ResampledScores,
    Resampling,
    nested_bootstrap,
    resample_scores,
)
from pvt_mtl_perception.study.statistics.pooled import pooled_score

VIDEO_BLOCKS = {"camvid": BLOCK_FRAMES}
"""Consecutive frames drawn together, by kind of source; sources that are not here have single images."""

_FRAME_NAME = re.compile(r"(?P<sequence>[^_]+)_\D*(?P<frame>\d+)$")

Key = tuple[str, float, str]
"""Comparison, data fraction, endpoint."""


@dataclass(frozen=True, eq=False)
class ImageIntervals:
    """Nested bootstraps of a study's comparisons.

    Attributes:
        intervals: by comparison, fraction and endpoint.
        images: how many test images were drawn from, by endpoint.
        blocks: how many consecutive frames were drawn together, by endpoint.
        reasons: why there is none, one line for each kind of reason.
    """

    intervals: Mapping[Key, NestedBootstrap]
    images: Mapping[str, int]
    blocks: Mapping[str, int]
    reasons: Sequence[str]


@lru_cache(maxsize=64)
def _records(path: Path) -> Records:
    return load_records(path)


def clips_of(names: Sequence[str]) -> tuple[int, ...]:
    """The stretch of video that each frame belongs to: a new one with each sequence and after each gap.

    Args:
        names: ``<sequence>_<frame number>`` with any folders and suffix, in the order of time.

    Raises:
        ValueError: when a name has another form.
    """
    found = []
    for name in names:
        match = _FRAME_NAME.match(Path(name).stem)
        if match is None:
            raise ValueError(f"frame name {name!r} is not <sequence>_<frame number>")
        found.append((match["sequence"], int(match["frame"])))
    steps = [b[1] - a[1] for a, b in itertools.pairwise(found) if a[0] == b[0] and b[1] > a[1]]
    usual = float(np.median(steps)) if steps else 0.0
    clip, clips = 0, []
    for number, (sequence, frame) in enumerate(found):
        if number and (sequence != found[number - 1][0] or not 0 < frame - found[number - 1][1] <= 3 * usual):
            clip += 1
        clips.append(clip)
    return tuple(clips)


def image_intervals(
    results: StudyResults, compared: Sequence[Compared], replicates: int, progress: bool = False
) -> ImageIntervals:
    """Nested bootstrap over seeds and test images of every comparison that has records.

    Where seeds are tested on different folds, the images of each fold are drawn on their own, the same for
    all seeds and arms that it tests.

    Args:
        results: of the study.
        compared: its comparisons.
        replicates: bootstrap draws.
        progress: show a bar with rate and remaining time.
    """
    endpoints = {endpoint.name: endpoint for endpoint in results.endpoints}
    wanted: dict[tuple[str, float, str], None] = {}
    for one in compared:
        for name, values in one.values.items():
            if len(values) > 1:
                other = one.comparison.against[endpoints[name].task]
                wanted |= dict.fromkeys(
                    [(one.comparison.arm, one.fraction, name), (other, one.fraction, name)]
                )
    resampled: dict[tuple[str, float, str], _ByName] = {}
    reasons: dict[str, None] = {}
    # Sorted by arm, so that its records are read once for all of its endpoints.
    for scored in tqdm(sorted(wanted), unit="score", desc="bootstrap", disable=not progress):
        of, fraction, name = scored
        try:
            resampled[scored] = _resample(results, of, fraction, endpoints[name], replicates)
        except (FileNotFoundError, ValueError) as error:
            reasons[f"{name} of {of} at {fraction:.0%} of the data: {error}"] = None
    _records.cache_clear()
    intervals, images, blocks = {}, {}, {}
    for one in compared:
        for name, values in one.values.items():
            other = one.comparison.against[endpoints[name].task]
            first = resampled.get((one.comparison.arm, one.fraction, name))
            second = resampled.get((other, one.fraction, name))
            if first is None or second is None or len(values) < 2:
                continue
            key = one.comparison.name, one.fraction, name
            try:
                arm, against = (_joined(part, list(values)) for part in (first, second))
                intervals[key] = nested_bootstrap(arm, against, results.study.preregistration.alpha)
            except (KeyError, ValueError) as error:
                reasons[f"{name} of {one.comparison.name}: {error}"] = None
                continue
            images[name] = len(set(arm.names))
            blocks[name] = arm.resampling.block_length
    return ImageIntervals(intervals, images, blocks, list(reasons))


_ByName = Mapping[int, tuple[ResampledScores, int]]
"""By seed the resampled scores of its test set, and its column in them."""


def _resample(
    results: StudyResults, arm: str, fraction: float, endpoint: EndpointConfig, replicates: int
) -> _ByName:
    score = pooled_score(endpoint.task, endpoint.metric)
    block = VIDEO_BLOCKS.get(endpoint.source.split("/")[0], 1)
    by_names: dict[tuple[str, ...], dict[int, Records]] = {}
    for run in results.of_arm(arm, fraction):
        path = run.folder.records(endpoint.source)
        if not path.is_file():
            raise FileNotFoundError(f"no records of the job {run.job.id}")
        records = _records(path)
        by_names.setdefault(records.names, {})[run.job.seed] = records
    found: dict[int, tuple[ResampledScores, int]] = {}
    for names, by_seed in by_names.items():
        resampling = Resampling(
            clips=clips_of(names) if block > 1 else None,
            block_length=block,
            replicates=replicates,
            # The same in every arm, whichever of its seeds are finished, and another for each fold.
            seed=zlib.crc32("\n".join(names).encode()),
        )
        evaluations = list(by_seed.values())
        # A fold with one seed is drawn with it in both columns.
        scores = resample_scores(evaluations if len(evaluations) > 1 else evaluations * 2, score, resampling)
        found |= {seed: (scores, column) for column, seed in enumerate(by_seed)}
    return found


def _joined(part: _ByName, seeds: Sequence[int]) -> ResampledScores:
    """The columns of some seeds, of one test set or of a fold for each."""
    columns = [part[seed] for seed in seeds]
    sets = list({id(scores): scores for scores, _ in columns}.values())
    return ResampledScores(
        names=tuple(name for scores in sets for name in scores.names),
        resampling=dataclasses.replace(sets[0].resampling, clips=None),
        observed=np.array([scores.observed[column] for scores, column in columns]),
        replicates=np.stack([scores.replicates[:, column] for scores, column in columns], axis=1),
    )


@dataclass(frozen=True, eq=False)
class Condition:
    """The test images of one label of a group, and what arms score on them.

    Attributes:
        group, label: such as ``weather`` and ``rainy``.
        images: how many, over the test sets of all seeds.
        scores: by endpoint and arm the score of each seed, 0..1; without those that are not defined.
    """

    group: str
    label: str
    images: int
    scores: dict[str, dict[str, dict[int, float]]]


def conditions(results: StudyResults, fewest: int = 10) -> list[Condition]:
    """Scores at the registered fraction on the parts of the test set that its image labels make.

    The labels are those of classification records, whichever arm has them. Endpoints of classification are
    left out: on images of one label, accuracy is recall.

    Args:
        results: of the study.
        fewest: labels with fewer images, over the test sets of all seeds, are left out.
    """
    found: dict[tuple[str, str], Condition] = {}
    for endpoint in results.endpoints:
        if endpoint.task == "classification" or not endpoint.primary:
            continue
        score = pooled_score(endpoint.task, endpoint.metric)
        masks = _label_masks(results, endpoint.source)
        images: dict[tuple[str, str], set[str]] = {}
        for names, by_label in masks.items():
            for label, mask in by_label.items():
                images.setdefault(label, set()).update(itertools.compress(names, mask))
        for arm in results.study.arms:
            for run in results.of_arm(arm) if endpoint.task in results.arm_tasks(arm) else []:
                path = run.folder.records(endpoint.source)
                records = _records(path) if path.is_file() else None
                for label, mask in masks.get(records.names, {}).items() if records else ():
                    if len(images[label]) < fewest:
                        continue
                    value = float(score(records, mask[None].astype(np.int64))[0])  # type: ignore[arg-type]
                    if np.isfinite(value):
                        condition = found.setdefault(label, Condition(*label, len(images[label]), {}))
                        by_arm = condition.scores.setdefault(endpoint.name, {})
                        by_arm.setdefault(arm, {})[run.job.seed] = value
    _records.cache_clear()
    return [found[key] for key in sorted(found)]


def _label_masks(
    results: StudyResults, source: str
) -> dict[tuple[str, ...], dict[tuple[str, str], npt.NDArray[np.bool_]]]:
    """By the names of the test images, and by group and label, which of them have it."""
    masks: dict[tuple[str, ...], dict[tuple[str, str], npt.NDArray[np.bool_]]] = {}
    for arm in results.study.arms:
        if "classification" not in results.arm_tasks(arm):
            continue
        for run in results.of_arm(arm):
            path = run.folder.records(source)
            if not path.is_file():
                continue
            records = _records(path)
            for group, part in () if records.names in masks else records.classification.items():
                for number in np.unique(part.labels[part.labels >= 0]):
                    by_label = masks.setdefault(records.names, {})
                    by_label[group, part.classes[number]] = part.labels == number
    return masks
