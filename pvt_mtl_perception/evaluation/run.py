"""One model on one data source as a configuration names it, as it is and under corruptions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pvt_mtl_perception.data.mixture import SampleSource
from pvt_mtl_perception.data.sources import SourceConfig, open_source
from pvt_mtl_perception.evaluation.corruptions import CorruptedSource
from pvt_mtl_perception.evaluation.evaluator import measure
from pvt_mtl_perception.evaluation.passes import ELSEWHERE, FinishedPasses, Pass, Scored
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.labels import LabelSet, TaskLabels, available_label_sets, load_label_set


@dataclass(frozen=True)
class Evaluated:
    """What was measured on one data source.

    Attributes:
        data: the data set, in the model's ids.
        clean: on the images as they are.
        corrupted: by corruption and strength.
    """

    data: SampleSource
    clean: Scored
    corrupted: Mapping[tuple[str, int], Scored]


def with_mappings(labels: TaskLabels) -> TaskLabels:
    """The label sets of a checkpoint, which keeps no mappings, with those of the package's files.

    Args:
        labels: a set gets the mappings of the file of its name where that has the same classes.
    """
    return TaskLabels(
        classification=labels.classification,
        detection=_with_mappings(labels.detection),
        segmentation=_with_mappings(labels.segmentation),
    )


def _with_mappings(labels: LabelSet | None) -> LabelSet | None:
    if labels is None or labels.name not in available_label_sets():
        return labels
    known = load_label_set(labels.name)
    return known if known.names == labels.names else labels


def own_taxonomy(source: SourceConfig, labels: TaskLabels) -> LabelSet | None:
    """The label set that masks of a source are scored in: CamVid in its own 11 classes, others as the model.

    Args:
        source: the data source.
        labels: of the data set, in the model's ids.
    """
    return load_label_set("camvid") if source.kind == "camvid" and labels.segmentation is not None else None


def evaluate_source(
    predictor: Predictor,
    source: SourceConfig,
    taxonomy: LabelSet | None = None,
    batch_size: int = 8,
    corruptions: Collection[str] = (),
    strengths: Sequence[int] = (),
    rank: int = 0,
    world_size: int = 1,
    name: str = "",
    finished: FinishedPasses | None = None,
) -> Evaluated | None:
    """Measures a model on a data source; None where that is optional and absent.

    Args:
        predictor: the model.
        source: the data source.
        taxonomy: label set to score masks in; ``own_taxonomy`` where None.
        batch_size: frames predicted at once by a process.
        corruptions: names in ``CORRUPTIONS``, each applied at each of the strengths.
        strengths: 1 to 5.
        rank, world_size: as in ``measure``.
        name: of the source.
        finished: passes that are not done again, and to which those that are done are added.

    Raises:
        FileNotFoundError, ValueError: from the data source and ``measure``.
        KeyError: when ``taxonomy`` has no mapping from the model's segmentation labels.
    """
    data = open_source(source, with_mappings(predictor.labels))
    if data is None:
        return None
    scored_in = taxonomy or own_taxonomy(source, data.labels)

    def measured(one: Pass, images: SampleSource) -> Scored:
        found = finished.find(one, len(images)) if finished is not None else None
        if found is None:
            metrics = measure(predictor, images, scored_in, batch_size, rank == 0, rank, world_size)
            found = Scored(metrics.scores(), metrics.records()) if rank == 0 else ELSEWHERE
            if finished is not None:
                finished.add(one, found)
        return found

    return Evaluated(
        data,
        measured(Pass(name), data),
        {
            (corruption, strength): measured(
                Pass(name, corruption, strength), CorruptedSource(data, corruption, strength)
            )
            for corruption in corruptions
            for strength in strengths
        },
    )
