"""What it saves to leave in the middleware the frames that nobody has time for.

``python benchmarks/take_on_demand.py``: one process publishes 1080p frames, two others subscribe. One takes
each frame, as a subscription does by itself; the other takes one only when a worker would be free, as the
node does. Printed is the CPU time that a subscriber spends in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.callback_groups import CallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from tqdm import tqdm

from pvt_mtl_perception.inference.process import ros_environment
from pvt_mtl_perception.ros.camera import ImageGate

BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def camera(width: int, height: int, rate: float) -> None:
    """Publishes until it is stopped."""
    rclpy.init(args=[])
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "image", BEST_EFFORT)
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(np.zeros(3 * width * height, np.uint8))
    node.create_timer(1 / rate, lambda: publisher.publish(message))
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


def subscriber(on_demand: bool, free: float) -> None:
    """For each number of seconds on stdin: prints frames and CPU seconds, each a second."""
    rclpy.init(args=[])
    node = rclpy.create_node("subscriber")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    taken, idle_from = 0, 0.0

    def on_image(_: Image) -> None:
        nonlocal taken, idle_from
        taken += 1
        idle_from = time.monotonic() + 1 / free

    # The end of the worker's batch wakes the executor, which looks at the gate again.
    node.create_timer(1 / free, lambda: None)
    group: CallbackGroup | None = ImageGate(lambda: time.monotonic() >= idle_from) if on_demand else None
    subscription = node.create_subscription(Image, "image", on_image, BEST_EFFORT, callback_group=group)
    end = time.monotonic() + 60
    while not taken:
        executor.spin_once(0.1)
        if time.monotonic() > end:
            raise SystemExit(f"no image on {subscription.topic_name} in 60 s")
    print("ready", flush=True)
    for line in sys.stdin:
        taken, cpu, start = 0, time.process_time(), time.monotonic()
        while (now := time.monotonic()) < start + float(line):
            executor.spin_once(max(0.0, start + float(line) - now))
        seconds = time.monotonic() - start
        spent = time.process_time() - cpu
        print(json.dumps({"frames": taken / seconds, "cpu": spent / seconds}), flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz")
    parser.add_argument("--free", type=float, default=8.0, help="how often a second the worker is free")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--role", choices=("camera", "all", "on-demand"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    if args.role == "camera":
        camera(width, height, args.rate)
        return
    if args.role:
        subscriber(args.role == "on-demand", args.free)
        return
    os.environ.update(ros_environment())

    def start(role: str) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, "--role", role, "--size", args.size]
        command += ["--rate", str(args.rate), "--free", str(args.free)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    children = {role: start(role) for role in ("camera", "all", "on-demand")}
    rows: dict[str, list[dict[str, float]]] = {"all": [], "on-demand": []}
    try:
        for role in rows:
            ready = children[role].stdout
            assert ready is not None
            if ready.readline().strip() != "ready":
                raise SystemExit(f"the subscriber {role!r} did not start; its message stands above")
        for _ in tqdm(range(args.rounds), unit="round"):
            for role, found in rows.items():
                child = children[role]
                assert child.stdin is not None and child.stdout is not None
                child.stdin.write(f"{args.seconds}\n")
                child.stdin.flush()
                found.append(json.loads(child.stdout.readline()))
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    print(f"{args.size} at {args.rate:g} Hz, a worker that is free {args.free:g} times a second")
    medians = {}
    for role, found in rows.items():
        medians[role] = {key: statistics.median(row[key] for row in found) for key in ("frames", "cpu")}
        print(
            f"  {role:<10} {medians[role]['frames']:5.1f} frames/s taken, "
            f"{1000 * medians[role]['cpu']:6.1f} ms CPU a second"
        )
    print(f"  on-demand / all: {medians['on-demand']['cpu'] / medians['all']['cpu']:.2f} of the CPU time")


if __name__ == "__main__":
    main()
