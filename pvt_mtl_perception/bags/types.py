"""Message types that bags are read and written with: ROS 2 Jazzy's own and vision_msgs, without ROS."""

from __future__ import annotations

from functools import cache

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

# vision_msgs 4.1.1: https://github.com/ros-perception/vision_msgs. The order and names of the fields make
# the type hashes, by which ROS 2 decides whether a bag's messages are the ones it knows.
_VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "Point2D position\nfloat64 theta",
    "BoundingBox2D": "Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "BoundingBox2DArray": "std_msgs/Header header\nBoundingBox2D[] boxes",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id"
    ),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
    "Classification": "std_msgs/Header header\nObjectHypothesis[] results",
    "VisionClass": "uint16 class_id\nstring class_name",
    "LabelInfo": "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold",
    "VisionInfo": ("std_msgs/Header header\nstring method\nstring database_location\nint32 database_version"),
}

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
BOXES = "vision_msgs/msg/BoundingBox2DArray"
CLASSIFICATION = "vision_msgs/msg/Classification"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"

# foxglove.*: protobuf, as in conversions of nuScenes; foxglove_msgs: the same fields as ROS messages.
RAW_IMAGE_TYPES = (IMAGE, "foxglove.RawImage", "foxglove_msgs/msg/RawImage")
COMPRESSED_IMAGE_TYPES = (
    COMPRESSED_IMAGE, "foxglove.CompressedImage", "foxglove_msgs/msg/CompressedImage"
)  # fmt: skip
IMAGE_TYPES = (*RAW_IMAGE_TYPES, *COMPRESSED_IMAGE_TYPES)


@cache
def typestore() -> Typestore:
    """ROS 2 Jazzy's types with vision_msgs; every message of this package's bags is made from it."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, fields in _VISION_MSGS.items():
        store.register(get_types_from_msg(fields, f"vision_msgs/msg/{name}"))
    return store


@cache
def ros1_typestore() -> Typestore:
    """ROS 1 Noetic's types, for ROS 1 messages in an MCAP file."""
    return get_typestore(Stores.ROS1_NOETIC)


def _qos(depth: int, durability: QosDurability) -> Qos:
    # The largest time that rosbag2 knows, which means "none".
    never = QosTime(9223372036, 854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=never,
        lifespan=never,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=never,
        avoid_ros_namespace_conventions=False,
    )


RELIABLE = _qos(10, QosDurability.VOLATILE)
"""Offered by played-back results and images."""

LATCHED = _qos(1, QosDurability.TRANSIENT_LOCAL)
"""Offered by a label list: said once, and late subscribers get it too."""
