from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pvt_mtl_perception.data.camvid import CamVidDataset
from pvt_mtl_perception.data.collate import Batch, Collator
from pvt_mtl_perception.data.mixture import Draw, Mixture, build_loader
from pvt_mtl_perception.data.reading import SampleError
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.transforms import training_transform


class NoiseDataset:
    """Pictures of noise that are labelled with where they come from."""

    def __init__(self, identity: int, size: int) -> None:
        self.identity, self.size = identity, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.identity, index])
        return Sample(
            image=rng.integers(0, 256, (80, 120, 3)).astype(np.uint8),
            boxes=np.array([[10, 10, 60, 50]], np.float32),
            box_labels=np.array([self.identity]),
            box_classes=(self.identity,),
            mask=rng.integers(0, 4, (80, 120)).astype(np.uint8),
            classes={"source": self.identity},
            name=f"{self.identity}/{index}",
        )


DATASETS = [NoiseDataset(0, 13), NoiseDataset(1, 7)]
MIXTURE = Mixture(sizes=(13, 7), ratios=(3, 1), batch_size=4, seed=11)
COLLATOR = Collator(detection_classes=2, groups={"source": 2})


def batches(**options: int) -> list[Batch]:
    options = {"stop_step": 6, "workers": 0} | options
    return list(build_loader(DATASETS, training_transform((32, 64)), MIXTURE, COLLATOR, **options))


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.names == second.names
    for name in ("images", "all_boxes", "all_box_labels", "all_ignore_boxes", "detection_labelled", "masks"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)
    torch.testing.assert_close(first.classes, second.classes, rtol=0, atol=0)


def write_camvid(folder: Path, frames: int, seed: int) -> CamVidDataset:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for frame in range(frames):
        cv2.imwrite(str(folder / f"{frame}.png"), rng.integers(0, 256, (80, 120, 3)).astype(np.uint8))
        label = cv2.resize(rng.integers(0, 12, (5, 7)).astype(np.uint8), (120, 80), interpolation=0)
        cv2.imwrite(str(folder / f"{frame}_label.png"), label)
    (folder / "train.txt").write_text("".join(f"{i}.png {i}_label.png\n" for i in range(frames)))
    return CamVidDataset(folder)


def test_number_of_workers_does_not_change_the_batches(tmp_path: Path) -> None:
    # Readers of the package, because a started worker cannot import a class of a test.
    datasets = [write_camvid(tmp_path / "first", 13, 0), write_camvid(tmp_path / "second", 7, 1)]
    collator = Collator(detection_classes=10, groups={"timeofday": 3})

    def read(workers: int) -> list[Batch]:
        transform = training_transform((32, 64))
        return list(build_loader(datasets, transform, MIXTURE, collator, stop_step=6, workers=workers))

    reference = read(0)
    assert len(reference) == 6 and sum(len(batch.all_boxes) for batch in reference) > 20
    for workers in (1, 2):
        for ours, theirs in zip(read(workers), reference, strict=True):
            assert_equal(ours, theirs)


def test_resume_at_any_step_continues_the_same_run() -> None:
    reference = batches(stop_step=9)
    for start in (1, 4, 8):
        for ours, theirs in zip(batches(start_step=start, stop_step=9), reference[start:], strict=True):
            assert_equal(ours, theirs)


@pytest.mark.parametrize("homogeneous", [False, True])
def test_draws_resume_far_into_the_run(homogeneous: bool) -> None:
    mixture = Mixture((1 << 31, 367, 50), (2, 1, 0.3), 6, seed=3, homogeneous=homogeneous)
    reference = list(islice(mixture.steps(), 1200))
    assert list(islice(mixture.steps(1100), 100)) == reference[1100:]


def test_processes_share_the_global_batch_without_overlap() -> None:
    whole = batches()
    parts = [batches(rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert parts[0][step].names + parts[1][step].names == batch.names
        torch.testing.assert_close(
            torch.cat([part[step].images for part in parts]), batch.images, rtol=0, atol=0
        )


@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_draws_what_one_draws(world_size: int, homogeneous: bool) -> None:
    mixture = Mixture((13, 7), (3, 1), 8, seed=4, homogeneous=homogeneous)

    def names(rank: int, world_size: int) -> list[tuple[str, ...]]:
        options = {"stop_step": 11, "start_step": 4, "workers": 0, "rank": rank, "world_size": world_size}
        loader = build_loader(DATASETS, training_transform((32, 32)), mixture, COLLATOR, **options)
        return [batch.names for batch in loader]

    parts = zip(*(names(rank, world_size) for rank in range(world_size)), strict=True)
    assert [sum(step, ()) for step in parts] == names(0, 1)


def test_ratios_hold_closely_in_any_run_of_draws() -> None:
    mixture = Mixture((1000, 1000, 1000), (5, 2, 1), 8, seed=0)
    counts = np.zeros(3)
    for step, draws in enumerate(islice(mixture.steps(), 500), 1):
        counts += np.bincount([draw.dataset for draw in draws], minlength=3)
        np.testing.assert_allclose(counts, 8 * step * np.array([5, 2, 1]) / 8, atol=3)


def test_each_pass_visits_every_sample_once_and_in_another_order() -> None:
    mixture = Mixture((10, 4), (1, 1), 4, seed=5)
    order = [d.sample for draws in islice(mixture.steps(), 30) for d in draws if d.dataset == 0]
    passes = [order[i : i + 10] for i in range(0, 50, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 5


def test_homogeneous_batches_have_one_source() -> None:
    mixture = Mixture((10, 10), (3, 1), 5, seed=5, homogeneous=True)
    sources = [{draw.dataset for draw in draws} for draws in islice(mixture.steps(), 100)]
    assert all(len(source) == 1 for source in sources)
    assert Counter(s for source in sources for s in source)[0] == pytest.approx(75, abs=2)


def test_every_draw_has_its_own_seed_and_another_run_others() -> None:
    def draws(seed: int) -> list[Draw]:
        return [d for batch in islice(Mixture((10,), (1,), 5, seed).steps(), 200) for d in batch]

    seeds = [draw.seed for draw in draws(1)]
    assert len(set(seeds)) == 1000 and min(seeds) >= 0 and max(seeds) < 2**63
    assert not set(seeds) & {draw.seed for draw in draws(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": (1.0,)}, "1 ratios for 2 data sets"),
        ({"ratios": (1.0, 0.0)}, "ratios are positive"),
        ({"sizes": (3, 0)}, "data set 1 has no samples"),
        ({"batch_size": 0}, "batch_size is at least 1"),
    ],
)
def test_mixture_refuses_what_makes_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(**({"sizes": (3, 3), "ratios": (1.0, 1.0), "batch_size": 2, "seed": 0} | change))


def test_loader_refuses_a_mixture_for_other_data_and_a_batch_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"sizes \(13, 7\), these have \(13,\)"):
        build_loader(DATASETS[:1], training_transform((32, 64)), MIXTURE, COLLATOR, stop_step=1)
    with pytest.raises(ValueError, match="batch size 4 is not a multiple of 3"):
        batches(world_size=3)


def test_a_worker_outlives_a_sigterm_that_is_not_its_parents(tmp_path: Path) -> None:
    datasets = [write_camvid(tmp_path / "first", 13, 0), write_camvid(tmp_path / "second", 7, 1)]
    collator = Collator(detection_classes=10, groups={"timeofday": 3})
    options = {"stop_step": 30, "workers": 1, "prefetch": 1}
    batches = iter(build_loader(datasets, training_transform((32, 64)), MIXTURE, collator, **options))
    (worker,) = multiprocessing.active_children()
    terminate = [sys.executable, "-c", f"import os; os.kill({worker.pid}, {int(signal.SIGTERM)})"]
    # It is still importing now, and reading afterwards.
    subprocess.run(terminate, check=True)
    assert len(list(islice(batches, 10))) == 10
    subprocess.run(terminate, check=True)
    assert len(list(islice(batches, 10))) == 10
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM} == set()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    del batches


def damaged_sets(folder: Path, damaged: tuple[int, ...]) -> list[CamVidDataset]:
    datasets = [write_camvid(folder / "first", 5, 0), write_camvid(folder / "second", 3, 1)]
    for frame in damaged:
        (folder / "first" / f"{frame}.png").write_bytes(b"no picture")
    return datasets


def read_damaged(datasets: list[CamVidDataset], on_bad_sample: str, workers: int = 0) -> list[Batch]:
    mixture = Mixture((5, 3), (1, 1), 4, seed=2)
    collator = Collator(detection_classes=10, groups={"timeofday": 3})
    options = {"stop_step": 5, "workers": workers, "on_bad_sample": on_bad_sample}
    return list(build_loader(datasets, training_transform((32, 64)), mixture, collator, **options))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_an_error_that_names_the_file(tmp_path: Path, workers: int) -> None:
    with pytest.raises(SampleError, match=r"first/2\.png: damaged, or not an image"):
        read_damaged(damaged_sets(tmp_path, (2,)), "raise", workers)


def test_a_bad_sample_is_skipped_and_listed_where_asked_and_others_stay_as_they_are(tmp_path: Path) -> None:
    whole = read_damaged(damaged_sets(tmp_path / "whole", ()), "raise")
    skipping = read_damaged(damaged_sets(tmp_path / "damaged", (2, 3)), "skip")
    bad = [found for batch in skipping for found in batch.bad_samples]
    replaced = 0
    for expected, batch in zip(whole, skipping, strict=True):
        for row, (name, found) in enumerate(zip(expected.names, batch.names, strict=True)):
            part = str(Path(name).relative_to(tmp_path / "whole"))
            if part in ("first/2.png", "first/3.png"):
                assert found.endswith("first/4.png")
                replaced += 1
            else:
                assert found.endswith(part)
                torch.testing.assert_close(batch.images[row], expected.images[row], rtol=0, atol=0)
    assert replaced >= 3 and len(bad) > replaced
    assert {(b.dataset, b.sample) for b in bad} == {(0, 2), (0, 3)}
    assert all("png: damaged, or not an image" in b.error for b in bad)


def test_a_class_id_out_of_range_is_skipped_too(tmp_path: Path) -> None:
    datasets = [write_camvid(tmp_path / "first", 5, 0), write_camvid(tmp_path / "second", 3, 1)]
    # CamVid's boxes have ids up to 9, and its times of day up to 2.
    for collator, error in (
        (Collator(2), r"first.*: detection class \d is outside 0\.\.1"),
        (Collator(10, {"timeofday": 0}), r"class 0 of group 'timeofday' is outside"),
    ):
        for skip in (False, True):
            options = {"stop_step": 1, "workers": 0, "on_bad_sample": "skip" if skip else "raise"}
            mixture = Mixture((5, 3), (1, 1e-9), 4, seed=2)
            loader = build_loader(datasets, training_transform((32, 64)), mixture, collator, **options)
            with pytest.raises(ValueError, match="cannot be read; the last: " * skip + ".*" + error):
                next(iter(loader))


def test_skipping_ends_where_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"5 samples one after the other cannot be read; the last: .*png: damaged"
    ):
        read_damaged(damaged_sets(tmp_path, tuple(range(5))), "skip")
