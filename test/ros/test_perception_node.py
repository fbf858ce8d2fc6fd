"""One node and one camera for all tests of this module, each in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_camera import STAMP_NANOSECONDS, picture
from ros_client import LATCHED, TIMEOUT, RosClient
from sensor_msgs.msg import Image
from vision_msgs.msg import Classification, Detection2DArray, LabelInfo

from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.render import colorize, draw_overlay

WIDTH, HEIGHT = 200, 120
TYPES = {
    "/detections": Detection2DArray,
    "/classification": Classification,
    "/segmentation/mask": Image,
    "/segmentation/confidence": Image,
    "/segmentation/color": Image,
    "/overlay": Image,
}


@pytest.fixture(scope="module")
def camera(start_camera: Any) -> Any:
    return start_camera("image", "--encoding", "bgr8", "--size", f"{WIDTH}x{HEIGHT}")


@pytest.fixture(scope="module")
def node(start_node: Any, camera: Any, client: RosClient, checkpoint: Path) -> Iterator[Any]:
    process = start_node(model_path=checkpoint, device="cpu", no_image_warning_period=2.0)
    client.wait_for_state("active")
    yield process
    # Every module's node has worked until here: it ends as Ctrl-C should end it.
    process.stop_cleanly(TIMEOUT)


@pytest.fixture(autouse=True)
def active_node(node: Any, client: RosClient) -> None:
    """Every test starts with an active node."""
    if client.state() != "active":
        assert client.change_state(Transition.TRANSITION_ACTIVATE)


@pytest.fixture
def outputs(client: RosClient) -> Iterator[dict[str, Any]]:
    """A listener on every output that has a frame's header."""
    listeners = {topic: client.listen(message_type, topic) for topic, message_type in TYPES.items()}
    yield listeners
    client.forget(*listeners.values())


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    """The model in this process, as what the node's answers are compared with."""
    return Predictor(checkpoint, device="cpu", backend="auto")


def pixels(message: Image) -> npt.NDArray[np.uint8]:
    channels = {"mono8": 1, "rgb8": 3}[message.encoding]
    assert message.step == message.width * channels
    array = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, channels)
    return array[..., 0] if channels == 1 else array


def frame_of_all(outputs: dict[str, Any]) -> dict[str, Any]:
    """The messages of one frame from every topic."""

    def number(message: Any) -> int:
        return message.header.stamp.sec

    last = max(number(listener.wait_for()) for listener in outputs.values())
    for topic, listener in outputs.items():
        if all(number(message) <= last for message in listener.messages):
            outputs[topic].wait_for(lambda message: number(message) > last)
    common = set.intersection(
        *({number(message) for message in listener.messages} for listener in outputs.values())
    )
    assert common, "no frame came out on all topics"
    chosen = max(common)
    return {
        topic: next(message for message in listener.messages if number(message) == chosen)
        for topic, listener in outputs.items()
    }


def test_results_are_those_of_the_predictor_for_the_same_frame(
    outputs: dict[str, Any], predictor: Predictor
) -> None:
    # Act
    frame = frame_of_all(outputs)

    # Assert: against the predictor in this process, on the picture with the frame's number.
    number = frame["/detections"].header.stamp.sec
    image = picture(number, WIDTH, HEIGHT)
    (result,) = predictor.predict([image], confidence=True)
    assert result.detections is not None
    assert result.segmentation is not None
    assert result.classification is not None

    mask = pixels(frame["/segmentation/mask"])
    assert np.mean(mask == result.segmentation.mask) > 0.999
    np.testing.assert_array_equal(
        pixels(frame["/segmentation/color"]), colorize(mask, predictor.labels.segmentation)
    )
    difference = np.abs(
        pixels(frame["/segmentation/confidence"]).astype(int) - result.segmentation.confidence
    )
    assert difference.max() <= 2
    overlay = draw_overlay(image, result, predictor.labels, 0.5)
    assert np.mean(pixels(frame["/overlay"]) == overlay) > 0.99

    detections = frame["/detections"].detections
    assert len(detections) == len(result.detections) > 0
    for detection, box, score, label in zip(
        detections, result.detections.boxes, result.detections.scores, result.detections.labels, strict=True
    ):
        center, size = detection.bbox.center.position, (detection.bbox.size_x, detection.bbox.size_y)
        corners = (
            center.x - size[0] / 2, center.y - size[1] / 2, center.x + size[0] / 2, center.y + size[1] / 2
        )  # fmt: skip
        np.testing.assert_allclose(corners, box, atol=0.05)
        assert detection.results[0].hypothesis.class_id == predictor.labels.detection.names[label]
        assert detection.results[0].hypothesis.score == pytest.approx(float(score), abs=1e-3)

    published = {result.class_id: result.score for result in frame["/classification"].results}
    for group, probabilities in result.classification.probabilities.items():
        for name, probability in zip(
            predictor.labels.classification[group].names, probabilities, strict=True
        ):
            assert published[f"{group}/{name}"] == pytest.approx(float(probability), abs=1e-3)


def test_every_output_carries_the_frames_header_unchanged(outputs: dict[str, Any]) -> None:
    frame = frame_of_all(outputs)
    header = frame["/detections"].header
    assert header.frame_id == "image optical"
    assert header.stamp.nanosec == STAMP_NANOSECONDS
    assert {topic: message.header == header for topic, message in frame.items()} == dict.fromkeys(TYPES, True)
    assert all(detection.header == header for detection in frame["/detections"].detections)


def test_outputs_have_their_types_and_reliable_qos(client: RosClient, outputs: dict[str, Any]) -> None:
    for listener in outputs.values():
        listener.wait_for()
    expected = {topic: f"{t.__module__.split('.')[0]}/msg/{t.__name__}" for topic, t in TYPES.items()}
    for topic, type_name in {**expected, "/segmentation/label_info": "vision_msgs/msg/LabelInfo"}.items():
        (publisher,) = client.node.get_publishers_info_by_topic(topic)
        assert publisher.topic_type == type_name
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert publisher.qos_profile.durability == (
            DurabilityPolicy.TRANSIENT_LOCAL if topic.endswith("label_info") else DurabilityPolicy.VOLATILE
        )
    (subscription,) = client.node.get_subscriptions_info_by_topic("/image")
    assert subscription.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert client.node.count_publishers("/diagnostics") == 1


def test_a_late_subscriber_gets_the_label_info(client: RosClient, predictor: Predictor) -> None:
    listener = client.listen(LabelInfo, "/segmentation/label_info", LATCHED)
    message = listener.first()
    names = predictor.labels.segmentation.names
    assert [(c.class_id, c.class_name) for c in message.class_map] == list(enumerate(names))
    client.forget(listener)


def test_a_threshold_changes_live_and_an_empty_result_is_published(client: RosClient) -> None:
    detections = client.listen(Detection2DArray, "/detections")
    try:
        detections.wait_for(lambda message: message.detections)
        assert client.set_parameter("score_threshold", 1.0) == ""
        empty = detections.wait_for(lambda message: not message.detections)
        assert empty.header.frame_id == "image optical"
        assert client.set_parameter("score_threshold", 0.35) == ""
        detections.wait_for(lambda message: message.detections)
        assert client.set_parameter("max_detections", 2) == ""
        detections.wait_for(lambda message: len(message.detections) == 2)
    finally:
        client.set_parameter("score_threshold", 0.35)
        client.set_parameter("max_detections", 100)
        client.forget(detections)


def test_the_overlays_opacity_changes_live(client: RosClient, predictor: Predictor) -> None:
    overlays = client.listen(Image, "/overlay")
    try:
        for opacity in (0.0, 1.0):
            assert client.set_parameter("overlay_opacity", opacity) == ""
            overlays.wait_for()  # may have been drawn before
            message = overlays.wait_for()
            image = picture(message.header.stamp.sec, WIDTH, HEIGHT)
            (result,) = predictor.predict([image])
            expected = draw_overlay(image, result, predictor.labels, opacity)
            assert np.mean(pixels(message) == expected) > 0.99
    finally:
        client.set_parameter("overlay_opacity", 0.5)
        client.forget(overlays)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("score_threshold", 1.5, "Max: 1.0"),
        ("max_detections", 0, "Min: 1"),
        ("precision", "fp8", "fp32, fp16, bf16"),
        ("device", "tpu", "auto, cpu, cuda, or cuda:N"),
        ("model_path", "other.safetensors", "deactivate it, clean it up"),
        ("autostart", False, "read-only"),
    ],
)
def test_an_invalid_change_is_refused_with_the_reason(
    client: RosClient, name: str, value: Any, reason: str
) -> None:
    before = client.get_parameter(name)
    assert reason in client.set_parameter(name, value)
    assert client.get_parameter(name) == before


def test_a_head_without_subscribers_is_not_computed(client: RosClient) -> None:
    # Arrange
    classification = client.listen(Classification, "/classification")
    classification.wait_for()
    before = client.node_values(lambda values: int(values["classification frames"]) > 0)
    before = client.node_values()

    # Act
    for _ in range(5):
        classification.wait_for()
    after = client.node_values(
        lambda values: int(values["classification frames"]) >= int(before["classification frames"]) + 5
    )
    client.forget(classification)

    # Assert
    assert after["detection frames"] == before["detection frames"]
    assert after["segmentation frames"] == before["segmentation frames"]


def test_nothing_is_computed_while_nobody_listens(client: RosClient) -> None:
    client.camera_values("/image", lambda values: values["subscribed outputs"] == "")
    before = client.camera_values("/image")
    after = client.camera_values(
        "/image", lambda values: int(values["frames received"]) >= int(before["frames received"]) + 20
    )
    assert after["frames processed"] == before["frames processed"]
    assert int(after["frames nobody wanted"]) > int(before["frames nobody wanted"])
    assert "nobody has subscribed" in after["message"]
    assert after["level"] == "OK"


def test_a_node_that_nobody_listens_to_rests(client: RosClient, node: Any) -> None:
    def processor_seconds() -> float:
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    client.camera_values("/image", lambda values: values["subscribed outputs"] == "")
    began, before = time.monotonic(), processor_seconds()
    for _ in range(3):
        client.node_values()
    share = (processor_seconds() - before) / (time.monotonic() - began)
    assert share < 0.3, "an image that waits must not keep the executor awake"


def test_diagnostics_report_rates_latency_and_model(
    client: RosClient, outputs: dict[str, Any], checkpoint: Path, predictor: Predictor
) -> None:
    values = client.camera_values(
        "/image", lambda values: float(values["output rate [Hz]"]) > 2 and values["latency p95 [ms]"]
    )
    assert 5 < float(values["input rate [Hz]"]) < 15
    assert 0 < float(values["latency p50 [ms]"]) <= float(values["latency p95 [ms]"])
    assert values["stamp age p50 [ms]"] == ""  # the camera's stamps are of 1970
    assert values["image"] == f"{WIDTH}x{HEIGHT} bgr8"
    assert values["subscribed outputs"].split(", ") == sorted(topic[1:] for topic in TYPES)
    received = sum(
        int(values[f"frames {fate}"]) for fate in ("processed", "replaced", "failed", "nobody wanted")
    )
    assert 0 <= int(values["frames received"]) - received <= 2  # in work
    node = client.node_values()
    assert node["level"] == "OK"
    assert node["model"] == checkpoint.stem
    assert (node["device"], node["precision"]) == ("cpu", "fp32")
    assert node["backend"] == predictor.backend
    assert node["tasks"] == "classification, detection, segmentation"
    assert float(node["prediction p50 [ms]"]) > 0


def test_a_bad_frame_is_counted_and_the_next_one_processed(
    client: RosClient, node: Any, camera: Any, start_camera: Any
) -> None:
    # Arrange
    masks = client.listen(Image, "/segmentation/mask")
    masks.wait_for()

    # Act: somebody else publishes what is no image on the same topic.
    culprit = start_camera("image", "--encoding", "mono7")
    values = client.camera_values("/image", lambda values: int(values["frames failed"]) > 0)
    culprit.stop()

    # Assert
    assert values["level"] == "WARN"
    assert "'mono7'" in values["message"]
    assert "rgb8, bgr8" in values["last error"]
    node.wait_for(r"\[ERROR\].*a frame of /image failed: image encoding 'mono7'", TIMEOUT)
    failed = client.camera_values("/image", lambda values: values["level"] == "OK")["frames failed"]
    masks.wait_for()
    assert client.camera_values("/image")["frames failed"] == failed
    client.forget(masks)


def test_a_deactivated_node_is_silent_until_it_is_activated_again(client: RosClient) -> None:
    classification = client.listen(Classification, "/classification")
    classification.wait_for()

    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert client.state() == "inactive"
    assert client.node.count_subscribers("/image") == 0
    count = len(classification.messages)
    client.node_values(lambda values: values["state"] == "inactive")
    client.node_values()
    assert len(classification.messages) <= count + 1  # one may have been on its way

    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    classification.wait_for()
    client.forget(classification)


def test_a_transition_that_the_state_lacks_is_refused_and_survived(client: RosClient, node: Any) -> None:
    assert not client.change_state(Transition.TRANSITION_CONFIGURE)
    # Jazzy's rclpy raises, which the node reports; Kilted's says it itself.
    node.wait_for("change_state refused in state active|Unable to start transition", TIMEOUT)
    assert client.state() == "active"


def test_a_parameter_of_a_type_that_ros_lacks_is_refused_and_survived(client: RosClient, node: Any) -> None:
    wrong = ParameterMessage(name="score_threshold", value=ParameterValue(type=99))
    answer = client.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[wrong]))
    assert not answer.results
    node.wait_for(r"set_parameters refused in state active: 99 is not a valid", TIMEOUT)
    assert client.get_parameter("score_threshold") == 0.35


def test_a_silent_camera_is_noticed_and_so_is_its_return(
    client: RosClient, node: Any, camera: Any, start_camera: Any
) -> None:
    camera.process.send_signal(signal.SIGSTOP)
    try:
        values = client.camera_values("/image", lambda values: values["level"] == "WARN")
        assert "no image for" in values["message"]
        assert "is silent; its QoS, " in values["message"]
        assert "fits the requested best effort" in values["message"]
        node.wait_for(r"\[WARN\].*no image for .* on /image", TIMEOUT)
    finally:
        camera.process.send_signal(signal.SIGCONT)
    node.wait_for(r"images arrive on /image", TIMEOUT)
    client.camera_values("/image", lambda values: values["level"] == "OK")
