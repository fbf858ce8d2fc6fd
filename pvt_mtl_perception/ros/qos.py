"""The QoS profiles of the node, and what stands in the way of a publisher's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.topic_endpoint_info import TopicEndpointInfo

IMAGE_TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
"""What an image topic of each ``image_transport`` has."""


def image_input() -> QoSProfile:
    """For camera images: best effort fits every publisher, and only the newest frame matters."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def output() -> QoSProfile:
    """For results: reliable, so that every subscriber matches."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=5,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched() -> QoSProfile:
    """For what is said once and late subscribers need too."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def describe(profile: QoSProfile) -> str:
    """Reliability, durability and history in words, for logs."""
    words = [
        profile.reliability.name.lower().replace("_", " "),
        profile.durability.name.lower().replace("_", " "),
    ]
    if profile.history == HistoryPolicy.KEEP_LAST:
        words.append(f"keep last {profile.depth}")
    return ", ".join(words)


@contextmanager
def naming_overrides(topic: str, entity: str) -> Iterator[None]:
    """Names the parameters that a QoS override comes from; rclpy names the policy alone.

    Args:
        topic: full name.
        entity: ``publisher`` or ``subscription``.

    Raises:
        ValueError: in the place of rclpy's error.
    """
    try:
        yield
    except RuntimeError as error:
        # Read-only and declared with its value now: a second configuration would find the same.
        raise ValueError(
            f"parameter qos_overrides.{topic}.{entity}: {error}. It is read once: correct it and start the "
            "node again"
        ) from None


def _transport_hint(published_type: str, requested_type: str) -> str:
    if published_type == requested_type:
        return ""
    transports = {kind: transport for transport, kind in IMAGE_TYPES.items()}
    return f"; set image_transport to {transports[published_type]}"


def explain_silence(
    topic: str,
    requested_type: str,
    requested: QoSProfile,
    publishers: Sequence[TopicEndpointInfo],
    elsewhere: Mapping[str, str],
) -> str:
    """Why a subscription hears nothing, from what discovery knows of the topic's publishers.

    Args:
        topic: the subscription's full topic name.
        requested_type: its type, like ``sensor_msgs/msg/Image``.
        requested: its QoS.
        publishers: everybody who publishes on the topic.
        elsewhere: other topics with images and a publisher, and their types, raw or compressed.
    """
    if not publishers:
        found = ", ".join(
            f"{name} ({kind}{_transport_hint(kind, requested_type)})"
            for name, kind in sorted(elsewhere.items())
        )
        rest = f"images are published on: {found}" if found else "nobody publishes images"
        return f"{topic} (requested: {describe(requested)}) has no publisher; {rest}"
    reasons = []
    for publisher in publishers:
        name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        if publisher.topic_type != requested_type:
            reasons.append(f"{name} publishes {publisher.topic_type} on {topic}, not {requested_type}")
            continue
        compatibility, _ = qos_check_compatible(publisher.qos_profile, requested)
        if compatibility == QoSCompatibility.ERROR:
            reasons.append(
                f"{name} offers {describe(publisher.qos_profile)} on {topic}, "
                f"this node requests {describe(requested)}, which is incompatible; set "
                f"qos_overrides.{topic}.subscription.reliability to "
                f"{publisher.qos_profile.reliability.name.lower()}"
            )
        else:
            reasons.append(
                f"{name} publishes {requested_type} on {topic} and is silent; its QoS, "
                f"{describe(publisher.qos_profile)}, fits the requested {describe(requested)}"
            )
    return "; ".join(reasons)
