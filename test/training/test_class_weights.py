"""Class weights against counts by hand and torch's own weighted mean."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_layouts import make_scene, write_bdd100k, write_cityscapes

from pvt_mtl_perception.data.reading import SampleError
from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.sources import SourceConfig, SourceView, open_source
from pvt_mtl_perception.training.class_weights import class_frequencies, inverse_log_weights
from pvt_mtl_perception.training.losses import segmentation_loss


def masked(*rows: list[int]) -> Sample:
    mask = np.array(rows, np.uint8)
    return Sample(np.zeros((*mask.shape, 3), np.uint8), mask=mask)


def test_frequencies_count_labelled_pixels_and_follow_the_ratios() -> None:
    first = [masked([0, 0, 0, 1]), masked([255, 255, 0, 1])]
    second = [masked([2, 2])]
    without = [Sample(np.zeros((2, 2, 3), np.uint8))]
    found = class_frequencies([first, second, without], [3, 1, 9], 4)
    torch.testing.assert_close(found, torch.tensor([0.75 * 4 / 6, 0.75 * 2 / 6, 0.25, 0.0]))
    with pytest.raises(ValueError, match="masks"):
        class_frequencies([without], [1], 4)


def test_the_masks_of_a_sparsely_labelled_source_are_found(tmp_path: Path) -> None:
    scenes = [make_scene(i) for i in range(12)]
    write_bdd100k(tmp_path, scenes)
    for number, path in enumerate(sorted((tmp_path / "labels/sem_seg/masks/train").iterdir())):
        if number not in (5, 7):
            path.unlink()
    source = open_source(SourceConfig("bdd100k", root=str(tmp_path)))
    # A view that leaves some out has other positions.
    part = SourceView(source, np.arange(3, 12), source.labels, None, "part")
    masks = np.stack([scenes[number].mask(0, (13, 255, 18)) for number in (5, 7)])
    expected = np.bincount(masks[masks < 19], minlength=19) / (masks < 19).sum()
    for data in (source, part):
        found = class_frequencies([data], [1], 19, samples=2)
        torch.testing.assert_close(found, torch.from_numpy(expected).float())


def test_a_damaged_sample_is_passed_over_where_that_is_asked_for(tmp_path: Path) -> None:
    stems = write_cityscapes(tmp_path, [make_scene(i) for i in range(3)])
    (tmp_path / "leftImg8bit" / f"{stems[0]}_leftImg8bit.png").write_bytes(b"no picture")
    source = open_source(SourceConfig("cityscapes", root=str(tmp_path)))
    with pytest.raises(SampleError, match="damaged"):
        class_frequencies([source], [1], 19)
    readable = [source[1], source[2]]
    found = class_frequencies([source], [1], 19, on_bad_sample="skip")
    torch.testing.assert_close(found, class_frequencies([readable], [1], 19))


def test_weights_are_the_formula_and_keep_the_mean_at_one() -> None:
    frequencies = torch.tensor([0.9, 0.1, 0.0])
    weights = inverse_log_weights(frequencies)
    assert float((weights * frequencies).sum()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(math.log(1.92) / math.log(1.12), rel=1e-5)


def test_a_weighted_loss_is_torchs_weighted_mean() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    masks = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    masks[0, :3] = 255
    weights = torch.tensor([0.5, 1.0, 4.0])
    expected = F.cross_entropy(logits, masks.long(), weights, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, masks, weights), expected)
    nothing = segmentation_loss(logits, torch.full_like(masks, 255), weights)
    nothing.backward()
    assert float(nothing.detach()) == 0 and logits.grad is not None and not logits.grad.any()
