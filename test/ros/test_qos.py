from __future__ import annotations

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from pvt_mtl_perception.ros import qos

IMAGE = "sensor_msgs/msg/Image"
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


def publisher(message_type: str = IMAGE, profile: QoSProfile = RELIABLE) -> TopicEndpointInfo:
    return TopicEndpointInfo(
        node_name="driver", node_namespace="/front", topic_type=message_type, qos_profile=profile
    )


def test_a_topic_without_publisher_is_explained_with_the_topics_there_are() -> None:
    elsewhere = {"/front/image_raw": IMAGE, "/front/image/compressed": "sensor_msgs/msg/CompressedImage"}
    text = qos.explain_silence("/image", IMAGE, qos.image_input(), [], elsewhere)
    assert text.startswith("/image (requested: best effort, volatile, keep last 1) has no publisher")
    assert "/front/image_raw (sensor_msgs/msg/Image)" in text
    assert (
        "/front/image/compressed (sensor_msgs/msg/CompressedImage; set image_transport to compressed)" in text
    )
    text = qos.explain_silence("/image", IMAGE, qos.image_input(), [], {})
    assert text.endswith("has no publisher; nobody publishes images")


def test_another_type_is_explained() -> None:
    others = [publisher("sensor_msgs/msg/CompressedImage")]
    text = qos.explain_silence("/image", IMAGE, qos.image_input(), others, {})
    assert (
        "/front/driver publishes sensor_msgs/msg/CompressedImage on /image, not sensor_msgs/msg/Image" in text
    )


def test_an_incompatible_publisher_is_explained_with_what_both_want_and_the_cure() -> None:
    text = qos.explain_silence("/image", IMAGE, RELIABLE, [publisher(profile=qos.image_input())], {})
    assert "/front/driver offers best effort" in text
    assert "this node requests reliable" in text
    assert "qos_overrides./image.subscription.reliability to best_effort" in text


def test_the_input_profile_fits_every_publisher() -> None:
    for profile in (RELIABLE, qos.image_input(), qos.latched()):
        text = qos.explain_silence("/image", IMAGE, qos.image_input(), [publisher(profile=profile)], {})
        assert "incompatible" not in text
