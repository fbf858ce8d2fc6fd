"""MCAP files as conversions of nuScenes write them: Foxglove's SDK, protobuf messages, JSON beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_files import LAG, stamp

foxglove = pytest.importorskip("foxglove", reason="foxglove-sdk, which writes such files, is not installed")

NUSCENES_FRONT = "/cam_front/image_rect_compressed"
NUSCENES_BACK = "/cam_back/image_rect_compressed"


def write_foxglove_mcap(
    path: Path,
    images: Sequence[np.ndarray],
    topics: Sequence[str] = (NUSCENES_FRONT,),
    compressed: str = "png",
    damaged: Sequence[int] = (),
) -> Path:
    """Writes images and, as the conversion does, a JSON topic and a calibration beside them.

    Args:
        path: an ``.mcap`` file, which must not exist.
        images: RGB frames, each written to every topic.
        topics: names.
        compressed: ``jpeg`` or ``png`` for foxglove.CompressedImage, empty for foxglove.RawImage in bgr8.
        damaged: frames whose data are cut short.
    """
    from foxglove.channels import CameraCalibrationChannel, CompressedImageChannel, RawImageChannel
    from foxglove.messages import CameraCalibration, CompressedImage, RawImage, Timestamp

    context = foxglove.Context()
    with foxglove.open_mcap(path, context=context):
        odometry = foxglove.Channel(
            "/odom",
            message_encoding="json",
            schema=foxglove.Schema(name="Pose", encoding="jsonschema", data=b'{"type": "object"}'),
            context=context,
        )
        kind = CompressedImageChannel if compressed else RawImageChannel
        channels = {topic: kind(topic, context=context) for topic in topics}
        calibration = CameraCalibrationChannel("/cam_front/camera_info", context=context)
        for index, image in enumerate(images):
            time = Timestamp(sec=stamp(index) // 10**9, nsec=stamp(index) % 10**9)
            recorded = stamp(index) + LAG
            odometry.log(b'{"speed": 3}', log_time=recorded)
            calibration.log(CameraCalibration(timestamp=time, frame_id="CAM_FRONT"), log_time=recorded)
            bgr = np.ascontiguousarray(image[:, :, ::-1])
            height, width = image.shape[:2]
            data = cv2.imencode(f".{compressed}", bgr)[1].tobytes() if compressed else bgr.tobytes()
            data = data[: len(data) // 3] if index in damaged else data
            for topic, channel in channels.items():
                frame_id = topic.split("/")[1].upper()
                if compressed:
                    message = CompressedImage(timestamp=time, frame_id=frame_id, data=data, format=compressed)
                else:
                    message = RawImage(
                        timestamp=time,
                        frame_id=frame_id,
                        width=width,
                        height=height,
                        encoding="bgr8",
                        step=width * 3,
                        data=data,
                    )
                channel.log(message, log_time=recorded)
    return path
