from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transforms

from pvt_mtl_perception.inference.predictor import Predictor, select_device
from pvt_mtl_perception.labels import load_label_set
from pvt_mtl_perception.model.checkpoint import Checkpoint, Preprocessing, build_network, save_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.spec import (
    TASKS,
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.result import Detections, Result

PREPROCESSING = Preprocessing(height=96, width=160)
GROUPS = {"weather": "driving_weather", "timeofday": "driving_timeofday"}
SIZES = [(108, 192), (77, 61), (96, 160), (33, 211), (108, 192)]


def make_checkpoint(tasks: Sequence[str] = TASKS) -> Checkpoint:
    """A small untrained network whose heads spread their outputs as a trained one's do."""
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone=BackboneSpec("pvt_v2_b0"),
        neck=NeckSpec(channels=32),
        classification=ClassificationSpec(GROUPS) if "classification" in tasks else None,
        detection=DetectionSpec(channels=32, num_convs=1) if "detection" in tasks else None,
        segmentation=SegmentationSpec(channels=32) if "segmentation" in tasks else None,
    )
    network = MultiTaskNetwork(spec)
    with torch.no_grad():
        for name, parameter in network.heads.named_parameters():
            if "class_logits.weight" in name or "box_distances.weight" in name or "predictor.weight" in name:
                parameter *= 20
            if "class_logits.bias" in name:
                parameter += 2
            if "linear" in name:
                parameter *= 50
    return Checkpoint(spec, network.labels, PREPROCESSING, network.state_dict(), {"seed": 0})


def street(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.float32)
    return np.clip((smooth - 128) * 6 + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return make_checkpoint()


@pytest.fixture(scope="module")
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor(checkpoint, device="cpu", score_threshold=0.2)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [street(*size, seed=seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def results(predictor: Predictor, images: list[np.ndarray]) -> list[Result]:
    return predictor.predict(images, confidence=True)


def assert_close(a: Result, b: Result, atol: float = 1e-4) -> None:
    """Equal up to rounding: boxes to ``atol`` pixels, masks but for pixels where two classes tie."""
    assert (a.height, a.width) == (b.height, b.width)
    assert a.detections is not None and b.detections is not None
    np.testing.assert_allclose(a.detections.scores, b.detections.scores, atol=1e-5)
    np.testing.assert_array_equal(a.detections.labels, b.detections.labels)
    np.testing.assert_allclose(a.detections.boxes, b.detections.boxes, atol=atol, rtol=1e-5)
    assert a.segmentation is not None and b.segmentation is not None
    assert (a.segmentation.mask != b.segmentation.mask).mean() < 1e-3
    assert a.classification is not None and b.classification is not None
    for group, probabilities in a.classification.probabilities.items():
        np.testing.assert_allclose(probabilities, b.classification.probabilities[group], atol=1e-5)


def test_results_are_in_source_pixels_with_documented_types(
    results: list[Result], images: list[np.ndarray]
) -> None:
    assert len(results) == len(images)
    for result, (height, width) in zip(results, SIZES, strict=True):
        assert (result.height, result.width) == (height, width)
        assert result.detections is not None and len(result.detections) > 3
        assert (result.detections.boxes >= 0).all()
        assert (result.detections.boxes <= (width, height, width, height)).all()
        assert (np.diff(result.detections.scores) <= 0).all()
        assert result.segmentation is not None and result.segmentation.confidence is not None
        assert result.segmentation.mask.shape == result.segmentation.confidence.shape == (height, width)
        assert result.segmentation.mask.dtype == result.segmentation.confidence.dtype == np.uint8
        assert len(np.unique(result.segmentation.mask)) > 1
        assert result.classification is not None
        assert list(result.classification.probabilities) == list(GROUPS)
        for group, probabilities in result.classification.probabilities.items():
            assert probabilities.shape == (len(load_label_set(GROUPS[group])),)
            assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_a_batch_of_mixed_sizes_gives_what_single_calls_give(
    predictor: Predictor, images: list[np.ndarray]
) -> None:
    # CPU kernels sum in another order for another batch size, hence "close" and not "equal". oneDNN's do so
    # by processor, too: on some of them an edge of a large box moves by twice the tolerance.
    with torch.backends.mkldnn.flags(enabled=False):
        for image, together in zip(images, predictor.predict(images, confidence=True), strict=True):
            (alone,) = predictor.predict([image])
            assert_close(together, alone)


def test_the_same_call_gives_the_same_result(predictor: Predictor, images: list[np.ndarray]) -> None:
    first, second = predictor.predict(images[:2]), predictor.predict(images[:2])
    for a, b in zip(first, second, strict=True):
        assert a.detections is not None and b.detections is not None
        assert a.segmentation is not None and b.segmentation is not None
        assert np.array_equal(a.detections.boxes, b.detections.boxes)
        assert np.array_equal(a.detections.scores, b.detections.scores)
        assert np.array_equal(a.segmentation.mask, b.segmentation.mask)


def test_mask_and_classes_are_those_of_a_pipeline_of_torchvision_parts(checkpoint: Checkpoint) -> None:
    image = street(108, 192, seed=7)  # 90 x 160 in the input of 96 x 160
    with torch.inference_mode():
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        resized = transforms.to_dtype(transforms.resize(tensor, [90, 160], antialias=True), scale=True)
        normalised = transforms.normalize(resized, PREPROCESSING.mean, PREPROCESSING.std)
        output = build_network(checkpoint)(F.pad(normalised, (0, 0, 0, 6))[None])
        logits = F.interpolate(output.segmentation, scale_factor=4, mode="bilinear")[:, :, :90]
        expected = F.interpolate(logits.argmax(1, keepdim=True).byte(), size=(108, 192), mode="nearest-exact")
    (result,) = Predictor(checkpoint, device="cpu").predict([image])
    assert result.segmentation is not None and result.classification is not None
    assert (result.segmentation.mask != expected[0, 0].numpy()).mean() < 1e-3
    for group, probabilities in result.classification.probabilities.items():
        np.testing.assert_allclose(probabilities, output.classification[group][0].softmax(0), atol=1e-4)


def test_an_empty_list_gives_an_empty_list(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_a_stream_gives_each_batch_with_what_a_call_gives(
    predictor: Predictor, images: list[np.ndarray]
) -> None:
    batches = [images[:2], [], images[2:3], images[3:]]
    streamed = list(predictor.predict_stream(enumerate(batches), lambda item: item[1]))
    assert [number for (number, _), _ in streamed] == [0, 1, 2, 3]
    for batch, (_, results) in zip(batches, streamed, strict=True):
        assert len(results) == len(batch)
        for result, expected in zip(results, predictor.predict(batch), strict=True):
            assert_close(result, expected, atol=0)
    assert list(predictor.predict_stream([], list)) == []
    ((_, [result]),) = predictor.predict_stream([images[:1]], list, ["segmentation"], confidence=True)
    assert result.detections is None and result.segmentation.confidence is not None


def test_a_stream_is_one_batch_ahead_and_fails_after_the_results_before(
    predictor: Predictor, images: list[np.ndarray]
) -> None:
    read: list[int] = []

    def batches():
        for number in range(3):
            read.append(number)
            yield images[number : number + 1]
        raise ValueError("the disk is gone")

    stream = predictor.predict_stream(batches(), list, ["classification"])
    assert read == []
    next(stream)
    assert read == [0, 1]
    next(stream)
    next(stream)
    with pytest.raises(ValueError, match="the disk is gone"):
        next(stream)
    bad = predictor.predict_stream([images[:1], [images[0][..., 0]]], list)
    assert len(next(bad)[1]) == 1
    with pytest.raises(ValueError, match=r"images\[0\] has shape"):
        next(bad)


def test_images_are_left_as_they_are(predictor: Predictor) -> None:
    image = street(96, 160)
    before = image.copy()
    predictor.predict([image])
    assert np.array_equal(image, before)


@pytest.mark.parametrize("tasks", [c for n in (1, 2) for c in itertools.combinations(TASKS, n)], ids="+".join)
def test_only_the_heads_of_the_asked_for_tasks_run(
    predictor: Predictor, images: list[np.ndarray], results: list[Result], tasks: tuple[str, ...]
) -> None:
    ran = set()
    heads = predictor._backend.network.heads
    hooks = [head.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, head in heads.items()]
    try:
        (result, *_) = predictor.predict(images, tasks)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == set(tasks)
    assert (result.classification is not None) == ("classification" in tasks)
    assert (result.detections is not None) == ("detection" in tasks)
    assert (result.segmentation is not None) == ("segmentation" in tasks)
    complete = dataclasses.replace(
        result,
        detections=result.detections or results[0].detections,
        segmentation=result.segmentation or results[0].segmentation,
        classification=result.classification or results[0].classification,
    )
    assert_close(complete, results[0])


@pytest.mark.parametrize("tasks", [c for n in (1, 2) for c in itertools.combinations(TASKS, n)], ids="+".join)
def test_a_checkpoint_of_any_subset_of_tasks_works(tasks: tuple[str, ...]) -> None:
    predictor = Predictor(make_checkpoint(tasks), device="cpu")
    assert predictor.tasks == tasks
    (result,) = predictor.predict([street(50, 70)])
    assert (result.classification is not None) == ("classification" in tasks)
    assert (result.detections is not None) == ("detection" in tasks)
    assert (result.segmentation is not None) == ("segmentation" in tasks)
    missing = next(task for task in TASKS if task not in tasks)
    with pytest.raises(ValueError, match=f"no task '{missing}'; it has: {', '.join(tasks)}"):
        predictor.predict([street(50, 70)], [missing])


def test_confidence_is_computed_only_when_asked_for(predictor: Predictor, images: list[np.ndarray]) -> None:
    (result,) = predictor.predict(images[:1])
    assert result.segmentation is not None and result.segmentation.confidence is None


def matched(found: Detections, expected: Detections) -> int:
    """How many of ``expected`` have a box of the same class within a pixel."""
    close = np.abs(found.boxes[:, None] - expected.boxes[None]).max(axis=2) < 1.0
    return int((close & (found.labels[:, None] == expected.labels[None])).any(axis=0).sum())


def test_bf16_is_close_to_fp32(checkpoint: Checkpoint, images: list[np.ndarray]) -> None:
    # Without suppression, which takes the one or the other of two boxes that overlap by about its threshold.
    found, expected = (
        Predictor(checkpoint, "cpu", precision, 0.2, 1.0, 1000).predict(images[:2])
        for precision in ("bf16", "fp32")
    )
    count = hits = 0
    for a, b in zip(found, expected, strict=True):
        assert a.segmentation is not None and b.segmentation is not None
        assert a.classification is not None and b.classification is not None
        assert a.detections is not None and b.detections is not None
        # bfloat16 has 8 significant bits, and a random network's classes lie close together.
        assert (a.segmentation.mask == b.segmentation.mask).mean() > 0.98
        for group, probabilities in a.classification.probabilities.items():
            np.testing.assert_allclose(probabilities, b.classification.probabilities[group], atol=0.03)
        count += len(b.detections)
        hits += matched(a.detections, b.detections)
    assert hits > 0.9 * count


def test_thresholds_change_while_the_predictor_lives(checkpoint: Checkpoint) -> None:
    predictor = Predictor(checkpoint, device="cpu", score_threshold=0.05, max_detections=1000)
    image = street(96, 160)

    def detections() -> Detections:
        (result,) = predictor.predict([image], ["detection"])
        assert result.detections is not None
        return result.detections

    before = detections()
    predictor.score_threshold = float(np.median(before.scores))
    higher = detections()
    assert 0 < len(higher) < len(before)
    assert higher.scores.min() >= predictor.score_threshold
    predictor.nms_threshold = 0.1
    assert len(detections()) < len(higher)
    predictor.max_detections = 2
    assert len(detections()) == 2
    with pytest.raises(ValueError, match=r"score_threshold is 3; it must lie in 0\.\.1"):
        predictor.score_threshold = 3
    assert predictor.score_threshold == float(np.median(before.scores))


def test_threads_predict_while_another_changes_thresholds(checkpoint: Checkpoint) -> None:
    predictor = Predictor(checkpoint, device="cpu", score_threshold=0.2)
    image = street(64, 96)
    (quiet,) = predictor.predict([image], ["segmentation"])
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            for _ in range(5):
                (result,) = predictor.predict([image], ["detection", "segmentation"])
                assert result.segmentation is not None and quiet.segmentation is not None
                assert (result.segmentation.mask != quiet.segmentation.mask).mean() < 1e-3
        except BaseException as error:
            errors.append(error)

    def change() -> None:
        while not done.is_set():
            predictor.score_threshold = 0.3
            predictor.max_detections = 10
            predictor.score_threshold = 0.2
            predictor.max_detections = 100
            done.wait(0.001)

    changer = threading.Thread(target=change)
    changer.start()
    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    changer.join()
    assert errors == []
    assert (predictor.score_threshold, predictor.max_detections) == (0.2, 100)


def test_a_file_gives_its_name_labels_and_provenance(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "driving_b0.safetensors"
    save_checkpoint(path, checkpoint)
    predictor = Predictor(path, device="cpu")
    assert predictor.model_name == "driving_b0"
    assert predictor.provenance == {"seed": 0}
    assert predictor.labels == checkpoint.labels
    assert predictor.tasks == TASKS
    (from_file,) = predictor.predict([street(96, 160)])
    (from_memory,) = Predictor(checkpoint, device="cpu").predict([street(96, 160)])
    assert_close(from_file, from_memory)


def test_input_size_can_be_chosen(checkpoint: Checkpoint) -> None:
    predictor = Predictor(checkpoint, device="cpu", input_size=(64, 128))
    batch, (geometry,) = predictor.preprocess([street(90, 180)])
    assert batch.shape == (1, 3, 64, 128)
    assert (geometry.resized_height, geometry.resized_width) == (64, 128)
    (result,) = predictor.predict([street(90, 180)])
    assert result.segmentation is not None and result.segmentation.mask.shape == (90, 180)
    with pytest.raises(ValueError, match="multiples of 32"):
        Predictor(checkpoint, device="cpu", input_size=(100, 160))


def test_warm_up_runs_the_batch_that_will_come(predictor: Predictor) -> None:
    shapes = []
    hook = predictor._backend.network.register_forward_pre_hook(
        lambda _, arguments: shapes.append(arguments[0].shape)
    )
    try:
        predictor.warm_up([(720, 1280), (480, 640)])
    finally:
        hook.remove()
    assert shapes == [(2, 3, 96, 160)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"images\[1\] has dtype float32; it must be uint8"),
        (np.zeros((4, 5), np.uint8), r"images\[1\] has shape \(4, 5\); it must be \(height, width, 3\)"),
        (np.zeros((4, 5, 4), np.uint8), r"images\[1\] has shape \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"images\[1\] has shape \(0, 5, 3\)"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"images\[1\] is a Tensor; it must be a numpy array"),
    ],
)
def test_an_image_that_is_none_is_named(predictor: Predictor, image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict([street(10, 10), image])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["depth"], "no task 'depth'; it has: classification, detection, segmentation"),
        ([], "tasks is empty"),
        ("detection", "tasks is the string 'detection'"),
    ],
)
def test_tasks_that_do_not_exist_are_refused(predictor: Predictor, tasks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict([street(10, 10)], tasks)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        select_device(name)


def test_a_device_this_machine_lacks_is_refused(checkpoint: Checkpoint) -> None:
    absent = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(RuntimeError, match=f"device '{absent}'"):
        Predictor(checkpoint, device=absent)


def test_auto_takes_cuda_where_there_is_one() -> None:
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_precision_is_checked(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="precision 'int8' is not known; known: fp32, fp16, bf16"):
        Predictor(checkpoint, device="cpu", precision="int8")
    with pytest.raises(ValueError, match="'fp16' needs a CUDA device"):
        Predictor(checkpoint, device="cpu", precision="fp16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_cuda_gives_what_the_cpu_gives(
    checkpoint: Checkpoint, images: list[np.ndarray], results: list[Result], precision: str
) -> None:
    predictor = Predictor(checkpoint, device="cuda", precision=precision, score_threshold=0.2)
    for a, b in zip(predictor.predict(images, confidence=True), results, strict=True):
        assert a.segmentation is not None and b.segmentation is not None
        assert a.detections is not None and b.detections is not None
        # On CUDA the resized image is not rounded to whole grey levels.
        assert (a.segmentation.mask == b.segmentation.mask).mean() > 0.9
        assert matched(a.detections, b.detections) > 0.8 * len(b.detections)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_stream_on_cuda_gives_what_calls_give(checkpoint: Checkpoint, images: list[np.ndarray]) -> None:
    predictor = Predictor(checkpoint, device="cuda", score_threshold=0.2)
    grey = np.broadcast_to(images[0][..., :1], images[0].shape)
    batches = [images, images[::-1], [grey], images[:1]] * 4
    expected = [predictor.predict(batch) for batch in batches]
    for (batch, results), wanted in zip(predictor.predict_stream(batches, list), expected, strict=True):
        assert len(results) == len(batch)
        for a, b in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(a.segmentation.mask, b.segmentation.mask)
            np.testing.assert_array_equal(a.detections.scores, b.detections.scores)


def test_a_view_that_repeats_one_channel_is_an_image(
    checkpoint: Checkpoint, images: list[np.ndarray]
) -> None:
    predictor = Predictor(checkpoint, "cpu", score_threshold=0.2)
    grey = np.broadcast_to(images[0][..., :1], images[0].shape)
    view, copy = (predictor.predict([image])[0] for image in (grey, grey.copy()))
    np.testing.assert_array_equal(view.segmentation.mask, copy.segmentation.mask)
    np.testing.assert_array_equal(view.detections.boxes, copy.detections.boxes)


def test_a_retinanet_checkpoint_is_predicted_and_equals_its_decoded_outputs() -> None:
    torch.manual_seed(0)
    spec = ModelSpec(neck=NeckSpec(channels=32), detection=DetectionSpec("retinanet"))
    network = MultiTaskNetwork(spec)
    with torch.no_grad():
        for layer in network.heads.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
    predictor = Predictor(Checkpoint(spec, network.labels, PREPROCESSING, network.state_dict(), {}), "cpu")
    images = [street(*size, seed=i) for i, size in enumerate(SIZES)]
    results = predictor.predict(images)
    assert sum(len(result.detections) for result in results) > 50
    batch, geometries = predictor.preprocess(images)
    with torch.inference_mode():
        output = network.eval()(batch)
    for result, expected, image in zip(results, predictor.decode(output, geometries), images, strict=True):
        np.testing.assert_allclose(result.detections.scores, expected.detections.scores, atol=1e-3)
        assert (result.detections.boxes <= np.tile(image.shape[1::-1], 2)).all()
        assert (result.detections.boxes[:, 2:] > result.detections.boxes[:, :2]).all()
