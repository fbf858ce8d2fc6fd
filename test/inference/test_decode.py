from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from pvt_mtl_perception.inference import decode
from pvt_mtl_perception.inference.decode import (
    MAX_CANDIDATES,
    DetectionSettings,
    decode_classification,
    decode_detection,
    decode_segmentation,
    enlarged_argmax,
)
from pvt_mtl_perception.inference.preprocess import LetterboxGeometry, letterbox_geometry
from pvt_mtl_perception.model.anchors import anchor_points, distances_to_boxes, expected_distances
from pvt_mtl_perception.model.heads import DETECTION_LEVELS, AnchorDetectionHead, DetectionOutput
from pvt_mtl_perception.result import Detections

STRIDES = (8, 16, 32, 64, 128)
REG_MAX = 16
CLASSES = 4
INPUT_SIZE = (128, 192)


def random_output(batch: int, seed: int = 0, shift: float = -3.0) -> DetectionOutput:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(math.ceil(INPUT_SIZE[0] / s), math.ceil(INPUT_SIZE[1] / s)) for s in STRIDES]
    logits = [torch.randn(batch, CLASSES, h, w, generator=generator) * 1.5 + shift for h, w in sizes]
    bins = 4 * (REG_MAX + 1)
    distances = [torch.randn(batch, bins, h, w, generator=generator) * 3 for h, w in sizes]
    return DetectionOutput(logits, distances)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def decode_slowly(
    output: DetectionOutput, image: int, geometry: LetterboxGeometry, settings: DetectionSettings
) -> list[tuple[float, int, list[float]]]:
    """(score, class, box) by falling score: the definition, one cell at a time."""
    candidates = []
    for logits, distances, stride in zip(output.logits, output.distances, STRIDES, strict=True):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                for c in range(CLASSES):
                    score = sigmoid(float(logits[image, c, y, x]))
                    if score < settings.score_threshold:
                        continue
                    sides = []
                    for side in range(4):
                        start = side * (REG_MAX + 1)
                        bins = [
                            math.exp(float(v)) for v in distances[image, start : start + REG_MAX + 1, y, x]
                        ]
                        sides.append(stride * sum(k * v for k, v in enumerate(bins)) / sum(bins))
                    center_x, center_y = (x + 0.5) * stride, (y + 0.5) * stride
                    box = [center_x - sides[0], center_y - sides[1], center_x + sides[2], center_y + sides[3]]
                    for k in (0, 2):
                        box[k] *= geometry.source_width / geometry.resized_width
                        box[k] = min(max(box[k], 0), geometry.source_width)
                    for k in (1, 3):
                        box[k] *= geometry.source_height / geometry.resized_height
                        box[k] = min(max(box[k], 0), geometry.source_height)
                    candidates.append((score, c, box))
    candidates.sort(key=lambda candidate: -candidate[0])
    candidates = [c for c in candidates[:MAX_CANDIDATES] if c[2][0] < c[2][2] and c[2][1] < c[2][3]]
    kept: list[tuple[float, int, list[float]]] = []
    for score, cls, box in candidates:
        if all(cls != other or iou(box, b) <= settings.nms_threshold for _, other, b in kept):
            kept.append((score, cls, box))
    return kept[: settings.max_detections]


@pytest.mark.parametrize(
    "settings",
    [
        DetectionSettings(0.3, 0.6, 100),
        DetectionSettings(0.1, 0.3, 100),
        DetectionSettings(0.0, 0.5, 1000),
        DetectionSettings(0.2, 1.0, 7),
    ],
    ids=str,
)
def test_detections_are_those_of_the_slow_reference(settings: DetectionSettings) -> None:
    output = random_output(batch=3)
    geometries = [letterbox_geometry(size, INPUT_SIZE) for size in [(1080, 1920), (97, 61), (128, 192)]]
    found = decode_detection(output, STRIDES, geometries, settings)
    for image, geometry in enumerate(geometries):
        expected = decode_slowly(output, image, geometry, settings)
        assert len(expected) > 3
        assert found[image].labels.tolist() == [cls for _, cls, _ in expected]
        np.testing.assert_allclose(found[image].scores, [score for score, _, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(found[image].boxes, [box for _, _, box in expected], rtol=1e-4, atol=2e-3)


def test_detections_have_the_documented_types_and_order() -> None:
    geometry = letterbox_geometry((1080, 1920), INPUT_SIZE)
    (found,) = decode_detection(random_output(1), STRIDES, [geometry], DetectionSettings())
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    assert found.boxes.shape == (len(found), 4)
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() >= 0.35
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= (1920, 1080)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_an_image_without_detections_has_empty_arrays() -> None:
    geometry = letterbox_geometry((100, 100), INPUT_SIZE)
    output = random_output(3)
    for level in output.logits:
        level[1] = -20
    first, empty, last = decode_detection(output, STRIDES, [geometry] * 3, DetectionSettings())
    assert (len(first) > 0, len(empty), len(last) > 0) == (True, 0, True)
    assert empty.boxes.shape == (0, 4)
    (alone,) = decode_detection(
        DetectionOutput([level[1:2] for level in output.logits], [level[1:2] for level in output.distances]),
        STRIDES, [geometry], DetectionSettings(),
    )  # fmt: skip
    assert alone.boxes.shape == (0, 4)


def test_the_boxes_of_one_class_overlap_at_most_by_the_threshold() -> None:
    geometry = letterbox_geometry(INPUT_SIZE, INPUT_SIZE)
    (found,) = decode_detection(random_output(1), STRIDES, [geometry], DetectionSettings(0.05, 0.4, 1000))
    for cls in range(CLASSES):
        boxes = torch.from_numpy(found.boxes[found.labels == cls])
        overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlaps.max() <= 0.4
    boxes = torch.from_numpy(found.boxes)
    assert box_iou(boxes, boxes).fill_diagonal_(0).max() > 0.4, "other classes do not suppress"


def same(a: Detections, b: Detections) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("boxes", "scores", "labels"))


def test_a_batch_gives_what_single_images_give() -> None:
    sizes = [(1080, 1920), (97, 61), (128, 192), (360, 480)]
    geometries = [letterbox_geometry(size, INPUT_SIZE) for size in sizes]
    output = random_output(len(sizes), seed=3)
    settings = DetectionSettings(0.1, 0.5, 50)
    together = decode_detection(output, STRIDES, geometries, settings)
    for i, geometry in enumerate(geometries):
        single = DetectionOutput([level[i : i + 1] for level in output.logits],
                                 [level[i : i + 1] for level in output.distances])  # fmt: skip
        (alone,) = decode_detection(single, STRIDES, [geometry], settings)
        assert same(together[i], alone)


def test_equal_scores_keep_the_order_of_the_cells() -> None:
    output = random_output(1)
    for level in output.logits:
        level.fill_(0.0)
    geometry = letterbox_geometry(INPUT_SIZE, INPUT_SIZE)
    settings = DetectionSettings(0.3, 1.0, MAX_CANDIDATES)
    (found,) = decode_detection(output, STRIDES, [geometry], settings)
    # 16 x 24 cells of the first level fill the candidates, cell by cell and class by class.
    assert found.labels.tolist() == [i % CLASSES for i in range(MAX_CANDIDATES)]
    (again,) = decode_detection(output, STRIDES, [geometry], settings)
    assert same(found, again)


def test_half_precision_outputs_are_decoded_in_single_precision() -> None:
    output = random_output(1)
    half = DetectionOutput([v.bfloat16() for v in output.logits], [v.bfloat16() for v in output.distances])
    rounded = DetectionOutput([v.float() for v in half.logits], [v.float() for v in half.distances])
    geometry = letterbox_geometry((1080, 1920), INPUT_SIZE)
    settings = DetectionSettings()
    (found,) = decode_detection(half, STRIDES, [geometry], settings)
    (expected,) = decode_detection(rounded, STRIDES, [geometry], settings)
    assert same(found, expected)


class Features(nn.Module):
    """Stands where torchvision's RetinaNet wants a backbone; the features come from the test."""

    out_channels = 16


def test_retinanet_boxes_equal_torchvisions_on_the_same_features() -> None:
    torch.manual_seed(0)
    head = AnchorDetectionHead(16, CLASSES)
    with torch.no_grad():
        # As initialised, every anchor has the same score and stays where it is.
        for layer in head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        head.regression_head.bbox_reg.weight *= 0.2
        head.classification_head.cls_logits.weight *= 2
    size, count = (128, 256), 3
    features = [torch.randn(count, 16, size[0] // s, size[1] // s) for s in STRIDES]
    settings = DetectionSettings(0.2, 0.5, 80)
    reference = RetinaNet(Features(), CLASSES, head=head, score_thresh=settings.score_threshold,
                          nms_thresh=settings.nms_threshold, detections_per_img=1000).eval()  # fmt: skip
    with torch.inference_mode():
        output = head(dict(zip(DETECTION_LEVELS, features, strict=True)))
        anchors = reference.anchor_generator(
            ImageList(torch.zeros(count, 3, *size), [size] * count), features
        )
        levels = [9 * x.shape[2] * x.shape[3] for x in features]
        split = {"cls_logits": output.logits.split(levels, 1),
                 "bbox_regression": output.deltas.split(levels, 1)}  # fmt: skip
        expected = reference.postprocess_detections(
            split, [own.split(levels) for own in anchors], [size] * count
        )
        # At input size in source pixels, and at three times that size.
        plain = [letterbox_geometry(size, size)] * count
        found = decode_detection(output, STRIDES, plain, settings)
        scaled = decode_detection(output, STRIDES, [letterbox_geometry((384, 768), size)] * count, settings)
    for ours, larger, theirs in zip(found, scaled, expected, strict=True):
        # torchvision keeps boxes that clipping to the image leaves without an area.
        real = (theirs["boxes"][:, 2:] > theirs["boxes"][:, :2]).all(1)
        theirs = {name: value[real][: settings.max_detections] for name, value in theirs.items()}
        assert len(theirs["scores"]) == settings.max_detections
        np.testing.assert_array_equal(ours.labels, theirs["labels"].numpy())
        np.testing.assert_allclose(ours.scores, theirs["scores"].numpy(), rtol=1e-6)
        np.testing.assert_allclose(ours.boxes, theirs["boxes"].numpy(), atol=1e-3)
        np.testing.assert_allclose(larger.boxes, 3 * theirs["boxes"].numpy(), atol=3e-3)


@pytest.mark.parametrize("size", [(1080, 1920), (361, 477), (97, 61), (500, 501)])
def test_a_box_known_in_the_source_comes_back_within_half_a_pixel(size: tuple[int, int]) -> None:
    """Distances are written as one-cell distributions, as a perfect network would."""
    geometry = letterbox_geometry(size, INPUT_SIZE)
    height, width = size
    box_source = np.array([[0.21 * width, 0.13 * height, 0.83 * width, 0.74 * height]], np.float32)
    x1, y1, x2, y2 = geometry.boxes_to_input(box_source)[0]
    level, stride = 1, 16
    column, row = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
    sides = np.array([(column + 0.5) * stride - x1, (row + 0.5) * stride - y1,
                      x2 - (column + 0.5) * stride, y2 - (row + 0.5) * stride]) / stride  # fmt: skip
    output = random_output(1)
    for scores in output.logits:
        scores.fill_(-20)
    output.logits[level][0, 2, row, column] = 3.0
    distribution = np.full((4, REG_MAX + 1), -1e4)
    for side, distance in enumerate(sides):
        below = int(distance)
        distribution[side, below] = math.log(1 - (distance - below) + 1e-12)
        distribution[side, below + 1] = math.log(distance - below + 1e-12)
    output.distances[level][0, :, row, column] = torch.from_numpy(distribution.reshape(-1))
    (found,) = decode_detection(output, STRIDES, [geometry], DetectionSettings())
    assert found.labels.tolist() == [2]
    assert found.scores[0] == pytest.approx(sigmoid(3.0))
    np.testing.assert_allclose(found.boxes, box_source, atol=0.5)


def test_boxes_in_the_padding_are_dropped() -> None:
    geometry = letterbox_geometry((64, 192), INPUT_SIZE)  # the lower half is padding
    output = random_output(1)
    for scores in output.logits:
        scores.fill_(-20)
    output.logits[0][0, 0, 12, 5] = 5.0
    output.distances[0][0] = -1e4
    output.distances[0][0, :: REG_MAX + 1] = 0  # of no extent
    output.distances[0][0, 1 :: REG_MAX + 1] = 0  # half a stride to each side
    (found,) = decode_detection(output, STRIDES, [geometry], DetectionSettings())
    assert len(found) == 0
    output.logits[0][0, 0, 6, 5] = 5.0
    (found,) = decode_detection(output, STRIDES, [geometry], DetectionSettings())
    np.testing.assert_allclose(found.boxes, [[40, 48, 48, 56]], atol=1e-4)


def test_anchor_points_are_cell_centres_row_by_row() -> None:
    points, strides = anchor_points([(2, 3), (1, 2)], [8, 16], torch.device("cpu"))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert strides.tolist() == [8] * 6 + [16] * 2


def test_expected_distances_are_means_of_their_distributions() -> None:
    logits = torch.full((1, 4, REG_MAX + 1), -1e4)
    logits[0, 0, 5] = 0  # certain
    logits[0, 1, 2] = logits[0, 1, 3] = 0  # halfway
    logits[0, 2] = 0  # uniform
    logits[0, 3, 0], logits[0, 3, 16] = math.log(0.25), math.log(0.75)
    np.testing.assert_allclose(expected_distances(logits.flatten(1))[0], [5, 2.5, 8, 12], rtol=1e-6)
    boxes = distances_to_boxes(torch.tensor([[100.0, 50.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert boxes.tolist() == [[99, 48, 103, 54]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("score_threshold", 1.1), ("nms_threshold", -0.1), ("max_detections", 0), ("score_threshold", math.nan)],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        DetectionSettings(**{name: value})


def smooth_logits(batch: int, classes: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Regions of a few pixels, as in a street scene."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, classes, max(2, size[0] // 6), max(2, size[1] // 6), generator=generator)
    return F.interpolate(coarse, size=size, mode="bicubic") * 5


@pytest.mark.parametrize("size", [(24, 40), (7, 9), (1, 1), (32, 1)])
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "noise"])
def test_enlarged_argmax_is_that_of_interpolated_logits(size: tuple[int, int], smooth: bool) -> None:
    logits = smooth_logits(2, 19, size) if smooth else torch.randn(2, 19, *size)
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    best_two = full.topk(2, dim=1).values
    clear = best_two[:, 0] - best_two[:, 1] > 1e-4
    mask, _ = enlarged_argmax(logits, confidence=False)
    assert mask.dtype == torch.uint8
    assert mask.shape == full.shape[:1] + full.shape[2:]
    assert torch.equal(mask[clear].long(), full.argmax(1)[clear])
    assert clear.float().mean() > 0.99


def test_a_frame_of_one_class_has_a_mask_of_one_class() -> None:
    logits = torch.zeros(1, 19, 24, 40)
    logits[:, 7] = 2.0
    mask, confidence = enlarged_argmax(logits, confidence=True)
    assert (mask == 7).all()
    assert confidence is not None
    assert (confidence == round(255 * math.exp(2) / (math.exp(2) + 18))).all()


def test_of_equal_classes_the_first_is_taken() -> None:
    logits = torch.zeros(1, 5, 8, 8)
    logits[:, 0] = -1
    mask, _ = enlarged_argmax(logits, confidence=False)
    assert (mask == 1).all()


def test_logits_that_are_no_numbers_keep_the_mask_in_range() -> None:
    logits = smooth_logits(1, 5, (8, 8))
    logits[:, :, 2:4, 3:5] = torch.nan
    mask, _ = enlarged_argmax(logits, confidence=True)
    assert mask.max() < 5


def test_more_mixed_cells_than_one_chunk_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = smooth_logits(2, 19, (24, 40))
    expected = enlarged_argmax(logits, confidence=True)
    monkeypatch.setattr(decode, "CELLS_AT_ONCE", {"cpu": 37})
    found = enlarged_argmax(logits, confidence=True)
    assert expected[1] is not None and found[1] is not None
    assert (found[0] != expected[0]).float().mean() < 1e-3
    assert (found[1].int() - expected[1].int()).abs().max() <= 1


def test_enlarged_argmax_takes_either_memory_format() -> None:
    logits = smooth_logits(2, 19, (24, 40))
    expected = enlarged_argmax(logits, confidence=True)
    found = enlarged_argmax(logits.contiguous(memory_format=torch.channels_last), confidence=True)
    assert torch.equal(found[0], expected[0])
    assert expected[1] is not None and found[1] is not None
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "noise"])
def test_confidence_is_the_interpolated_probability_of_the_mask(smooth: bool) -> None:
    logits = smooth_logits(2, 19, (24, 40)) if smooth else torch.randn(2, 19, 24, 40)
    mask, confidence = enlarged_argmax(logits, confidence=True)
    full = F.interpolate(logits.softmax(1), scale_factor=4, mode="bilinear", align_corners=False)
    expected = full.gather(1, mask[:, None].long())[:, 0] * 255
    assert confidence is not None
    assert confidence.dtype == torch.uint8
    assert (confidence.float() - expected).abs().max() < 0.51


@pytest.mark.parametrize("size", [(1079, 1919), (361, 477), (97, 61), (128, 192)])
def test_mask_has_source_size_for_letterboxed_frames_and_lies_where_the_logits_do(
    size: tuple[int, int],
) -> None:
    """A rectangle known in the source, drawn into logits as a network would, returns at its place."""
    height, width = size
    geometry = letterbox_geometry(size, INPUT_SIZE)
    box = np.array([[0.2 * width, 0.3 * height, 0.7 * width, 0.8 * height]], np.float32)
    x1, y1, x2, y2 = geometry.boxes_to_input(box)[0] / 4
    # Per pixel of the logits the covered share: the zero crossing between two pixels is the edge.
    rows = np.clip(np.minimum(y2, np.arange(32) + 1) - np.maximum(y1, np.arange(32)), 0, 1)
    columns = np.clip(np.minimum(x2, np.arange(48) + 1) - np.maximum(x1, np.arange(48)), 0, 1)
    inside = torch.from_numpy(np.outer(rows, columns)).float()
    logits = torch.stack((torch.full_like(inside, -9), 0.5 - inside, inside - 0.5))[None]
    (found,) = decode_segmentation(logits, [geometry], confidence=True)
    assert found.mask.shape == size
    assert found.mask.dtype == np.uint8
    assert found.confidence is not None and found.confidence.shape == size
    across = np.flatnonzero(found.mask[height // 2] == 2)
    down = np.flatnonzero(found.mask[:, width // 2] == 2)
    edges = [across[0], down[0], across[-1] + 1, down[-1] + 1]
    # One input pixel, which is the mask's own resolution.
    tolerance = max(1.0, *geometry.scale)
    np.testing.assert_allclose(edges, box[0], atol=tolerance)


def test_masks_of_a_batch_are_those_of_single_images() -> None:
    sizes = [(361, 477), (97, 61), (128, 192)]
    geometries = [letterbox_geometry(size, INPUT_SIZE) for size in sizes]
    logits = smooth_logits(3, 19, (32, 48))
    together = decode_segmentation(logits, geometries, confidence=True)
    for i, geometry in enumerate(geometries):
        (alone,) = decode_segmentation(logits[i : i + 1], [geometry], confidence=True)
        assert np.array_equal(together[i].mask, alone.mask)
        assert np.array_equal(together[i].confidence, alone.confidence)


def test_classification_is_a_softmax_by_group() -> None:
    logits = {"weather": torch.tensor([[0.0, math.log(3)], [5.0, 5.0]]), "scene": torch.zeros(2, 5)}
    first, second = decode_classification(logits)
    np.testing.assert_allclose(first.probabilities["weather"], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(second.probabilities["weather"], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(second.probabilities["scene"], [0.2] * 5, rtol=1e-6)
    assert first.probabilities["scene"].dtype == np.float32
