"""Compare the running node with the bare predictor; ``pvt-mtl bench --node`` and ``benchmarks/node.py``.

The cameras, the node, the bare predictor and this listener are four processes. Node and predictor take
turns beside the same cameras, so that their ratio holds for whatever else the machine does; the predictor is
also timed without them, and as a plain loop that subscribes to the cameras and predicts each newest image,
without publishing: what no node can avoid. With several cameras all take a frame of each at once. At the end
the cameras slow down to half of what the node can do, which shows the latency of a node that is free when a
frame arrives.
``--memory-minutes`` goes on like that and reads the node's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from tqdm import tqdm
from vision_msgs.msg import Classification, Detection2DArray

from pvt_mtl_perception.inference.process import prepare_process, ros_environment
from pvt_mtl_perception.paths import shipped_checkpoint
from pvt_mtl_perception.ros.camera_statistics import LATENCY_WINDOW
from pvt_mtl_perception.ros.image_conversion import image_to_rgb

NODE = "/perception_node"
THIS = ("-m", "pvt_mtl_perception.ros.benchmark")


def frames(width: int, height: int) -> list[np.ndarray]:
    """Four different RGB pictures."""
    generator = np.random.default_rng(0)
    tile = generator.integers(0, 256, (4, height // 8, width // 8, 3), np.uint8)
    return [np.ascontiguousarray(t.repeat(8, 0).repeat(8, 1)) for t in tile]


def camera_names(count: int) -> list[str]:
    """One camera has no name, which leaves its topics without a prefix."""
    return [f"camera_{i}" for i in range(count)] if count > 1 else [""]


def topic(camera: str, name: str) -> str:
    """A camera's topic."""
    return f"{camera}/{name}" if camera else name


def camera(count: int, width: int, height: int, rate: float) -> None:
    """Publishes rgb8 best effort for each camera until it is stopped."""
    rclpy.init(args=[])
    node = rclpy.create_node("camera")
    publishers = [
        node.create_publisher(Image, topic(name, "image"), qos_profile_sensor_data)
        for name in camera_names(count)
    ]
    messages = []
    for picture in frames(width, height):
        message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        message.data.frombytes(picture)
        messages.append(message)
    number = 0

    def publish() -> None:
        nonlocal number
        message = messages[number % len(messages)]
        message.header.stamp = node.get_clock().now().to_msg()
        for publisher in publishers:
            publisher.publish(message)
        number += 1

    node.create_timer(1.0 / rate, publish)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


def predictor_loop(arguments: argparse.Namespace) -> None:
    """For each ``SECONDS [take | parallel]`` on stdin: predicts batches, prints frames a second and their ms.

    With ``take`` the images are the cameras' newest ones, and the time includes taking them. With
    ``parallel`` as many batches are predicted at once as the node has in work.
    """
    prepare_process()  # as the node does
    from pvt_mtl_perception.inference.predictor import Predictor

    predictor = Predictor(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        backend=arguments.backend,
        calls=arguments.parallel_batches,
    )
    pictures = frames(arguments.width, arguments.height)
    batches = [[pictures[(i + j) % 4] for j in range(arguments.cameras)] for i in range(4)]
    predictor.predict(batches[0])

    def predict_until(end: float, newest: Callable[[], list[np.ndarray]] | None, times: list[float]) -> None:
        while (now := time.perf_counter()) < end:
            predictor.predict(newest() if newest else batches[len(times) % 4])
            times.append(1e3 * (time.perf_counter() - now))

    print("ready", flush=True)
    for line in sys.stdin:
        seconds, *mode = line.split()
        threads = arguments.parallel_batches if mode == ["parallel"] else 1
        with newest_images(camera_names(arguments.cameras)) if mode == ["take"] else nullcontext() as newest:
            times: list[float] = []
            started = time.perf_counter()
            end = started + float(seconds)
            with ThreadPoolExecutor(threads) as pool:
                for done in [pool.submit(predict_until, end, newest, times) for _ in range(threads)]:
                    done.result()
            rate = len(times) * arguments.cameras / (time.perf_counter() - started)
        print(json.dumps({"rate": rate, "ms": times}), flush=True)


@contextmanager
def newest_images(cameras: Sequence[str]) -> Iterator[Callable[[], list[np.ndarray]]]:
    """A function that waits for an image of each camera and gives them; the middleware keeps the newest."""
    rclpy.init(args=[])
    node = rclpy.create_node("plain_loop")
    taken: dict[str, Image] = {}
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    for name in cameras:
        node.create_subscription(
            Image, topic(name, "image"), lambda message, name=name: taken.update({name: message}), profile
        )

    def newest() -> list[np.ndarray]:
        taken.clear()
        while len(taken) < len(cameras):
            rclpy.spin_once(node)
        return [image_to_rgb(taken[name]) for name in cameras]

    try:
        newest()
        yield newest
    finally:
        node.destroy_node()
        rclpy.shutdown()


class Bench:
    """The processes of one run and what the listener hears of the node."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.children: list[subprocess.Popen[str]] = []
        rclpy.init(args=[])
        self.node = rclpy.create_node("listener")
        self.received = 0
        self.values: dict[str, str] = {}
        for name in camera_names(arguments.cameras):
            for output, message_type, callback in (
                ("detections", Detection2DArray, self._on_detections),
                ("segmentation/mask", Image, lambda _: None),
                ("classification", Classification, lambda _: None),
            ):
                self.node.create_subscription(message_type, topic(name, output), callback, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.change = self.node.create_client(ChangeState, f"{NODE}/change_state")

    def _on_detections(self, _: Detection2DArray) -> None:
        self.received += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(NODE):
                self.values |= {pair.key: pair.value for pair in status.values}

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A Python child process, stopped by ``close``."""
        child = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.children.append(child)
        return child

    def start_camera(self, rate: float) -> subprocess.Popen[str]:
        """A process with all cameras at ``rate`` Hz."""
        size, count = f"{self.arguments.width}x{self.arguments.height}", str(self.arguments.cameras)
        return self.start(*THIS, "--role", "camera", "--size", size, "--cameras", count, "--rate", str(rate))

    def stop(self, child: subprocess.Popen[str]) -> None:
        """Ends a child with SIGINT."""
        child.send_signal(2)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
        self.children.remove(child)

    def close(self) -> None:
        """Ends all children."""
        for child in list(self.children):
            self.stop(child)
        rclpy.try_shutdown()

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Listens for ``seconds`` or until the condition holds; whether it did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.1)
            if until():
                return True
        return False

    def transition(self, number: int) -> None:
        """Takes the node through a lifecycle transition."""
        future = self.change.call_async(ChangeState.Request(transition=Transition(id=number)))
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=60)
        if not future.done() or not future.result().success:
            raise SystemExit(f"the node refused transition {number}; its log above says why")

    def node_round(self, seconds: float) -> dict[str, float]:
        """Frames a second that arrive here, and the node's own percentiles, over ``seconds``."""
        before = self.received
        if not self.spin(120, lambda: self.received > before + 2):
            raise SystemExit("no detections arrive from the node; its log above says why")
        first, started = self.received, time.perf_counter()
        self.spin(seconds)
        rate = (self.received - first) / (time.perf_counter() - started)
        return {
            "rate": rate,
            "latency_p50_ms": float(self.values["latency p50 [ms]"]),
            "prediction_p50_ms": float(self.values["prediction p50 [ms]"]),
        }


def ask(child: subprocess.Popen[str], seconds: float, *take: str) -> dict[str, Any]:
    """One round of the bare predictor, or with ``"take"`` of the plain loop."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(" ".join((str(seconds), *take)) + "\n")
    child.stdin.flush()
    answer: dict[str, Any] = json.loads(child.stdout.readline())
    return answer


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def processor_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """What processes have computed so far, all their threads together."""
    ticks = os.sysconf("SC_CLK_TCK")
    times = {}
    for name, pid in pids.items():
        # The command's name in parentheses may hold spaces; user and system time are the 14th and 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        times[name] = (int(fields[11]) + int(fields[12])) / ticks
    return times


def with_cores(measure: Callable[[], dict[str, Any]], pids: Mapping[str, int]) -> dict[str, Any]:
    """What ``measure`` gives, and as ``cores`` how many processor cores each process used on average."""
    before, started = processor_seconds(pids), time.perf_counter()
    measured = measure()
    seconds = time.perf_counter() - started
    cores = {name: (now - before[name]) / seconds for name, now in processor_seconds(pids).items()}
    return {**measured, "cores": cores}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements of one run."""
    checkpoint = str(arguments.checkpoint or shipped_checkpoint())
    size = f"{arguments.width}x{arguments.height}"
    engine = {name: getattr(arguments, name) for name in ("device", "precision", "backend")}
    common = [word for name, value in engine.items() for word in (f"--{name}", value)]
    common += ["--cameras", str(arguments.cameras)]
    bench = Bench(arguments)
    try:
        bare = bench.start(*THIS, "--role", "predictor", "--checkpoint", checkpoint, "--size", size, *common)
        assert bare.stdout is not None
        if bare.stdout.readline().strip() != "ready":
            raise SystemExit("the bare predictor did not start; its message stands above")
        alone = ask(bare, arguments.seconds)
        camera_process = bench.start_camera(arguments.rate)
        node = bench.start(
            "-m", "pvt_mtl_perception.ros.perception_node", "--ros-args",
            "-p", f"model_path:={checkpoint}", "-p", f"cameras:={camera_names(arguments.cameras)}",
            *(word for name, value in engine.items() for word in ("-p", f"{name}:={value}")),
            "-p", f"parallel_batches:={arguments.parallel_batches}",
        )  # fmt: skip
        bench.node_round(5.0)
        pids = {"node": node.pid, "cameras": camera_process.pid, "listener": os.getpid()}
        rounds: list[dict[str, Any]] = []
        for _ in tqdm(range(arguments.rounds), desc="rounds", unit="round"):
            bench.transition(Transition.TRANSITION_DEACTIVATE)
            beside = with_cores(lambda: ask(bare, arguments.seconds), {"bare": bare.pid})
            at_once = ask(bare, arguments.seconds, "parallel") if arguments.parallel_batches > 1 else beside
            plain = ask(bare, arguments.seconds, "take")
            bench.transition(Transition.TRANSITION_ACTIVATE)
            bench.node_round(1.0)
            heard = with_cores(lambda: bench.node_round(arguments.seconds), pids)
            rounds.append({"bare": beside, "at_once": at_once, "plain": plain, "node": heard})
        ratio = statistics.median(r["node"]["rate"] / r["bare"]["rate"] for r in rounds)
        node_rate = statistics.median(r["node"]["rate"] for r in rounds)
        bench.stop(camera_process)
        slow_rate = node_rate / arguments.cameras / 2
        bench.start_camera(slow_rate)
        # The percentiles cover the last seconds, which must all be of the slow camera.
        bench.node_round(LATENCY_WINDOW + 2.0)
        unhurried = bench.node_round(arguments.seconds)
        report: dict[str, Any] = {
            "size": size,
            "cameras": arguments.cameras,
            **engine,
            "parallel_batches": arguments.parallel_batches,
            "camera_rate": arguments.rate,
            "bare_alone_ms": statistics.median(alone["ms"]),
            "bare_alone_rate": alone["rate"],
            "bare_beside_camera_rate": statistics.median(r["bare"]["rate"] for r in rounds),
            "node_rate": node_rate,
            "ratio": ratio,
            "ratio_to_bare_alone": node_rate / alone["rate"],
            "bare_at_once_rate": statistics.median(r["at_once"]["rate"] for r in rounds),
            "ratio_to_bare_at_once": statistics.median(
                r["node"]["rate"] / r["at_once"]["rate"] for r in rounds
            ),
            "plain_loop_rate": statistics.median(r["plain"]["rate"] for r in rounds),
            "ratio_to_plain_loop": statistics.median(r["node"]["rate"] / r["plain"]["rate"] for r in rounds),
            "cores": {
                name: statistics.median(r[part]["cores"][name] for r in rounds)
                for part, name in [("bare", "bare"), *(("node", name) for name in pids)]
            },
            "processor_ms_a_frame": {
                name: 1000 * statistics.median(r[name]["cores"][name] / r[name]["rate"] for r in rounds)
                for name in ("bare", "node")
            },
            "rounds": [
                {
                    "ratio": r["node"]["rate"] / r["bare"]["rate"],
                    "bare_ms": statistics.median(r["bare"]["ms"]),
                    "node_prediction_ms": r["node"]["prediction_p50_ms"],
                    "node_rest_ms": 1000 / r["node"]["rate"]
                    - r["node"]["prediction_p50_ms"] / arguments.cameras,
                }
                for r in rounds
            ],
            "busy_latency_p50_ms": statistics.median(r["node"]["latency_p50_ms"] for r in rounds),
            "slow_camera_rate": slow_rate,
            "latency_p50_ms": unhurried["latency_p50_ms"],
            "prediction_p50_ms": unhurried["prediction_p50_ms"],
            "added_latency_p50_ms": unhurried["latency_p50_ms"] - unhurried["prediction_p50_ms"],
        }
        if arguments.memory_minutes:
            readings = {}
            for minute in tqdm(range(1, arguments.memory_minutes + 1), desc="memory", unit="min"):
                bench.node_round(60.0)
                readings[minute] = memory_mb(node.pid)
            report["memory_mb"] = readings
        return report
    finally:
        bench.close()


def print_table(report: dict[str, Any]) -> None:
    """The report for a terminal."""
    rows = [
        (
            "bare predictor alone",
            f"{report['bare_alone_ms']:.1f} ms a batch, {report['bare_alone_rate']:.2f} frames/s",
        ),
        ("bare predictor beside the camera", f"{report['bare_beside_camera_rate']:.2f} frames/s"),
        ("plain loop: take an image, predict", f"{report['plain_loop_rate']:.2f} frames/s"),
        (f"node, camera at {report['camera_rate']:g} Hz", f"{report['node_rate']:.2f} frames/s"),
        ("node / bare beside the camera", f"{report['ratio']:.3f}"),
        ("node / plain loop", f"{report['ratio_to_plain_loop']:.3f}"),
        ("node / bare alone", f"{report['ratio_to_bare_alone']:.3f}"),
        (
            f"node latency p50, camera at {report['camera_rate']:g} Hz",
            f"{report['busy_latency_p50_ms']:.1f} ms",
        ),
        (
            f"node latency p50, camera at {report['slow_camera_rate']:.2f} Hz",
            f"{report['latency_p50_ms']:.1f} ms",
        ),
        ("of which beyond the predictor", f"{report['added_latency_p50_ms']:.1f} ms"),
    ]
    if report["parallel_batches"] > 1:
        also = f"bare, {report['parallel_batches']} at once"
        rows += [
            (f"{also}, beside the camera", f"{report['bare_at_once_rate']:.2f} frames/s"),
            (f"node / {also}", f"{report['ratio_to_bare_at_once']:.3f}"),
        ]
    cores, milliseconds = report["cores"], report["processor_ms_a_frame"]
    rows += [
        ("cores used: bare predictor", f"{cores['bare']:.2f}, {milliseconds['bare']:.0f} ms a frame"),
        ("cores used: node", f"{cores['node']:.2f}, {milliseconds['node']:.0f} ms a frame"),
        ("cores used: cameras, this listener", f"{cores['cameras']:.2f}, {cores['listener']:.2f}"),
    ]
    if readings := report.get("memory_mb"):
        first, last = min(readings), max(readings)
        rows.append((f"node memory after {first} min", f"{readings[first]:.0f} MB"))
        rows.append((f"node memory after {last} min", f"{readings[last]:.0f} MB"))
    cameras = "1 camera" if report["cameras"] == 1 else f"{report['cameras']} cameras"
    print(
        f"{cameras}, {report['size']}, all tasks; {report['device']}, {report['precision']}, "
        f"backend {report['backend']}, parallel_batches {report['parallel_batches']}"
    )
    for name, value in rows:
        print(f"  {name:<42}{value}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument(
        "--parallel-batches",
        type=int,
        default=1,
        help="the node's parameter; default: %(default)s",
    )
    parser.add_argument("--size", default="1920x1080", help="of the cameras' images")
    parser.add_argument("--rate", type=float, default=30.0, help="of each camera, Hz")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=4, help="turns of predictor, plain loop and node")
    parser.add_argument("--memory-minutes", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    parser.add_argument(
        "--role", choices=["bench", "camera", "predictor"], default="bench", help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    arguments.width, arguments.height = (int(side) for side in arguments.size.split("x"))
    if arguments.role == "camera":
        camera(arguments.cameras, arguments.width, arguments.height, arguments.rate)
        return
    if arguments.role == "predictor":
        # The parent ends its children with SIGINT.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        predictor_loop(arguments)
        return
    os.environ.update(ros_environment())
    report = run(arguments)
    print_table(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
