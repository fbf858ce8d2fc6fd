"""1080p frames at 30 Hz between two processes: complete with the shipped Fast DDS profile, not without it."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("rclpy")

from rclpy.utilities import get_rmw_implementation_identifier

from pvt_mtl_perception.inference.process import PROFILE_VARIABLES

FRAMES = 90
RATE = 30.0

pytestmark = pytest.mark.skipif(
    get_rmw_implementation_identifier() != "rmw_fastrtps_cpp", reason="the profile is for Fast DDS"
)

# A camera driver's best effort. The reader's queue holds a second of frames: what is lost is then lost on the
# way, and not because a busy machine let this process wait.
COMMON = """
import sys, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Int32
best_effort = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
rclpy.init()
"""

SUBSCRIBER = (
    COMMON
    + """
node = rclpy.create_node("subscriber")
acknowledge = node.create_publisher(Int32, "acknowledge", 100)
arrived, finished = set(), []
last = time.monotonic()

def receive(message):
    global last
    last = time.monotonic()
    arrived.add(int(message.header.frame_id))
    acknowledge.publish(Int32(data=int(message.header.frame_id)))

node.create_subscription(Image, "image", receive, best_effort)
node.create_subscription(Int32, "finished", finished.append, 1)
while not finished or time.monotonic() - last < 0.5:
    rclpy.spin_once(node, timeout_sec=0.5)
print("RECEIVED", len(arrived - {0}), flush=True)
"""
)

# Small frames first, until one has arrived on whatever transport. Then every frame counts. With patience, a
# subscriber that is three frames behind gets that many seconds to catch up: a busy machine then lowers the
# rate, where it would otherwise look like a lossy transport.
PUBLISHER = (
    COMMON
    + """
frames, rate, patience = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
node = rclpy.create_node("publisher")
newest = -1

def acknowledged(message):
    global newest
    newest = max(newest, message.data)

def spin_until(deadline, condition=lambda: False):
    while not condition() and (left := deadline - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left)

node.create_subscription(Int32, "acknowledge", acknowledged, 100)
finished = node.create_publisher(Int32, "finished", 1)
publisher = node.create_publisher(Image, "image", best_effort)

small = Image(height=16, width=16, encoding="mono8", step=16, data=bytes(256))
small.header.frame_id = "0"
while newest < 0 or not finished.get_subscription_count():
    publisher.publish(small)
    rclpy.spin_once(node, timeout_sec=0.1)

large = Image(height=1080, width=1920, encoding="bgr8", step=1920 * 3)
large.data.frombytes(bytes(1080 * 1920 * 3))
begin = due = time.monotonic()
for number in range(1, frames + 1):
    spin_until(due)
    spin_until(time.monotonic() + patience, lambda: number - newest <= 3)
    large.header.frame_id = str(number)
    publisher.publish(large)
    # A late frame moves those after it: a burst is not what a camera sends.
    due = max(due, time.monotonic() - 0.5 / rate) + 1 / rate
sent_in = time.monotonic() - begin
spin_until(time.monotonic() + patience, lambda: newest == frames)
finished.publish(Int32(data=frames))
finished.wait_for_all_acked()
print("SENT", frames, "RATE", round(frames / sent_in, 1), flush=True)
"""
)


def frames_received(spawn, environment, patience):
    """How many of FRAMES arrived, and the rate they were sent at."""
    subscriber = spawn("-c", SUBSCRIBER, environment=environment)
    publisher = spawn("-c", PUBLISHER, FRAMES, RATE, patience, environment=environment)
    sent = publisher.wait_for(r"SENT (\d+) RATE (\S+)", timeout=90)
    received = subscriber.wait_for(r"RECEIVED (\d+)", timeout=30)
    assert int(sent[1]) == FRAMES
    return int(received[1]), float(sent[2])


def test_profile_brings_every_best_effort_frame(spawn):
    received, rate = frames_received(spawn, environment={}, patience=5.0)

    assert received == FRAMES
    if rate < 0.9 * RATE:
        warnings.warn(f"the machine was too busy for {RATE:g} Hz: measured at {rate} Hz", stacklevel=1)


def test_default_transport_loses_best_effort_frames(spawn):
    without_profile = dict.fromkeys(PROFILE_VARIABLES, "")

    received, _ = frames_received(spawn, without_profile, patience=0.0)

    assert received < FRAMES
