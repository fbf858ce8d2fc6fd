"""The perception node: camera images in; detections, masks, classification and an overlay out."""

from __future__ import annotations

import functools
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.service import Service
from rclpy.timer import Timer
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from pvt_mtl_perception.inference.process import prepare_process
from pvt_mtl_perception.paths import shipped_checkpoint
from pvt_mtl_perception.ros import parameters, qos
from pvt_mtl_perception.ros.camera import CONFIDENCE, Camera, Frame, ImageGate
from pvt_mtl_perception.ros.camera_statistics import Percentiles
from pvt_mtl_perception.ros.diagnostics import NodeReport, camera_status, node_status
from pvt_mtl_perception.ros.image_conversion import image_to_rgb
from pvt_mtl_perception.ros.order import PublicationOrder

if TYPE_CHECKING:  # needs torch, which a node that is not configured does without
    from pvt_mtl_perception.inference.predictor import Predictor

NODE_NAME = "perception_node"
DIAGNOSTICS_PERIOD = 1.0
LOG_PERIOD = 5.0
"""Seconds between two log lines about failing frames of a camera, or about failing callbacks."""

GRACE = 8.0
"""Seconds from a signal to the end of a node that is still configuring; `ros2 launch` kills it after ten."""

MAX_STAMP_AGE = 60.0
"""Seconds; an image that seems older, or from the future, was stamped by another clock."""

_SUCCESS = TransitionCallbackReturn.SUCCESS
_FAILURE = TransitionCallbackReturn.FAILURE
_ERROR = TransitionCallbackReturn.ERROR

_Transition = Callable[["PerceptionNode", LifecycleState], TransitionCallbackReturn]


def _reported(transition: _Transition) -> _Transition:
    """A transition whose exceptions are reported; rclpy turns them into ERROR without a word."""

    @functools.wraps(transition)
    def wrapper(self: PerceptionNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.report_fault(f"{transition.__name__} failed: {error}")
            return _ERROR

    return wrapper


class PerceptionNode(LifecycleNode):
    """A lifecycle node around ``inference.Predictor``.

    The executor's thread takes images, answers services and reports; worker threads, one for each of the
    parallel batches, convert a batch with the newest frame of each camera, run the predictor and publish, in
    the order in which the frames came. Images are taken only while a worker has time for them, so they wait,
    and are replaced, in the middleware's queue of one.

    Topics, parameters and lifecycle are described in ``docs/ros.md``.

    Raises:
        ValueError, rclpy.exceptions.ParameterException: when a parameter has a value that is not allowed.
    """

    def __init__(self, **node_options: Any) -> None:
        # What destroy_node looks at; Kilted calls it on shutdown, even where a parameter was refused here.
        self._predictor: Predictor | None = None
        self._cameras: list[Camera] = []
        self._workers: list[threading.Thread] = []
        self._sync_timer: Timer | None = None
        super().__init__(NODE_NAME, **node_options)
        for service in self.services:
            self._survive_invalid_requests(service)
        parameters.declare(self)
        for name, near in parameters.unknown_overrides(self).items():
            hint = f"; did you mean {near}?" if near else ""
            self.get_logger().warning(f"parameter {name} is not known and has no effect{hint}")
        self._settings = parameters.read(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)

        self._fault = ""
        self._batches: queue.SimpleQueue[tuple[int, list[Frame]] | None] = queue.SimpleQueue()
        self._order = PublicationOrder()
        self._dispatching = False
        self._statistics_lock = threading.Lock()
        self._frames_by_task: Counter[str] = Counter()
        self._batches_by_size: Counter[int] = Counter()
        self._prediction = Percentiles()
        self._failures_seen: Counter[str] = Counter()

        # Not the node's clock: with use_sim_time that one stands still until somebody publishes /clock.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_timer(DIAGNOSTICS_PERIOD, self._report, clock=self._steady_clock)
        self._start_timer = self.create_timer(0.0, self._start, clock=self._steady_clock)

    def _survive_invalid_requests(self, service: Service) -> None:
        """A transition that the state lacks, or a parameter type that ROS lacks, raises in rclpy."""
        callback = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return callback(request, response)
            except Exception as error:
                name = service.srv_name.rpartition("/")[2]
                self.get_logger().warning(f"{name} refused in state {self.state}: {error}")
                return response

        service.callback = answer

    # Lifecycle

    @property
    def state(self) -> str:
        """The lifecycle state's label."""
        return str(self._state_machine.current_state[1])

    def _start(self) -> None:
        self.destroy_timer(self._start_timer)
        if not self._settings.autostart or self.state != "unconfigured":
            return
        if self.trigger_configure() == _SUCCESS:
            self.trigger_activate()
        elif self.context.ok():
            self.get_logger().error(
                "not started. Correct the parameters, then: "
                f"ros2 lifecycle set {self.get_fully_qualified_name()} configure (and activate)"
            )

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and advertises the topics; on failure the node stays unconfigured."""
        self._settings = parameters.read(self)
        self._fault = ""
        try:
            self._predictor = predictor = self._load_predictor()
            for name in self._settings.cameras:
                self._cameras.append(Camera(self, name, predictor.labels, predictor.tasks))
        except Exception as error:  # a file, a device or a QoS override: the user's to correct
            self._release()
            self.report_fault(f"cannot configure: {error}")
            return _FAILURE
        size = predictor.preprocessing
        self.get_logger().info(
            f"configured: {predictor.model_name} ({', '.join(predictor.tasks)}) on {predictor.device} in "
            f"{predictor.precision} with {predictor.backend}, input {size.width}x{size.height} pixels"
        )
        return super().on_configure(state)

    def report_fault(self, reason: str) -> None:
        """Says in the log, and in /diagnostics until the next configuration, why a transition failed."""
        if self.context.ok():  # everything fails while the node is being shut down
            self._fault = reason
            self.get_logger().error(reason)

    def _load_predictor(self) -> Predictor:
        settings = self._settings
        checkpoint = settings.model_path or shipped_checkpoint()
        self.get_logger().info(
            f"loading {checkpoint}: device {settings.device}, backend {settings.backend}; the first start "
            "prepares the backend, which may take minutes"
        )
        from pvt_mtl_perception.inference.predictor import Predictor

        height, width = settings.input_size
        predictor = Predictor(
            checkpoint,
            device=settings.device,
            precision=settings.precision,
            backend=settings.backend,
            score_threshold=settings.score_threshold,
            nms_threshold=settings.nms_threshold,
            max_detections=settings.max_detections,
            input_size=(height, width) if height else None,
            background=True,
            calls=settings.parallel_batches,
        )
        # The first call on a device is slow, and shows whether there is memory enough.
        predictor.warm_up([(720, 1280)] * len(settings.cameras))
        return predictor

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the cameras and starts the workers."""
        result = super().on_activate(state)
        if result != _SUCCESS:
            return result
        stamp = self.get_clock().now().to_msg()
        self._workers = [
            threading.Thread(target=self._work, name=f"perception worker {i}", daemon=True)
            for i in range(self._settings.parallel_batches)
        ]
        for worker in self._workers:
            worker.start()
        if self._settings.sync_tolerance > 0:
            self._sync_timer = self.create_timer(
                self._settings.sync_tolerance, self._dispatch, clock=self._steady_clock
            )
            self._sync_timer.cancel()
        for camera in self._cameras:
            camera.publish_label_info(Header(stamp=stamp))
            self._subscribe(camera)
        return _SUCCESS

    def _subscribe(self, camera: Camera) -> None:
        compressed = self._settings.image_transport == "compressed"

        def is_open() -> bool:
            if self._order.in_work >= len(self._workers) or not (camera.look or camera.wanted()):
                return False
            camera.last_open = time.monotonic()
            return True

        def on_image(message: Image | CompressedImage, info: dict[str, Any]) -> None:
            self._on_image(camera, message, info)

        profile = qos.image_input()
        camera.on_subscribed()
        topic = camera.topic("image/compressed" if compressed else "image")
        with qos.naming_overrides(self.resolve_topic_name(topic), "subscription"):
            camera.subscription = self.create_subscription(
                CompressedImage if compressed else Image,
                topic,
                on_image,
                profile,
                callback_group=ImageGate(is_open),
                event_callbacks=SubscriptionEventCallbacks(
                    incompatible_qos=lambda _: self._on_incompatible_qos(camera, profile),
                    message_lost=lambda event: camera.statistics.on_lost(event.total_count_change),
                ),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        self.get_logger().info(f"subscribed to {camera.subscription.topic_name} ({qos.describe(profile)})")

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops taking images; what is in work is finished first. The model stays in memory."""
        self._stop_working()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model and its device memory, and takes the topics from the graph."""
        self._release()
        return super().on_cleanup(state)

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops and frees everything, from any state."""
        self._release()
        return super().on_shutdown(state)

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured with everything freed, so that the node can be configured again."""
        self._release()
        return super().on_error(state)

    def _stop_working(self) -> None:
        for camera in self._cameras:
            if camera.subscription is not None:
                self.destroy_subscription(camera.subscription)
                camera.subscription = None
        if self._sync_timer is not None:
            self.destroy_timer(self._sync_timer)
            self._sync_timer = None
        for _ in self._workers:
            self._batches.put(None)
        for worker in self._workers:
            worker.join()
        self._workers = []
        for camera in self._cameras:
            camera.take()

    def _release(self) -> None:
        self._stop_working()
        for camera in self._cameras:
            camera.destroy_publishers()
        self._cameras = []
        if self._predictor is not None:
            on_cuda = str(self._predictor.device).startswith("cuda")
            self._predictor = None
            if on_cuda:
                import torch

                gc.collect()
                torch.cuda.empty_cache()

    def destroy_node(self) -> None:
        """Ends the workers, frees the model, and destroys the node."""
        self._release()
        super().destroy_node()

    # Parameters

    def _check_parameters(self, changed: Sequence[Parameter]) -> SetParametersResult:
        reason = parameters.refusal(changed, unconfigured=self.state == "unconfigured")
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _apply_parameters(self, changed: Sequence[Parameter]) -> None:
        if not any(parameter.name in parameters.PARAMETERS for parameter in changed):
            return
        self._settings = parameters.read(self)
        if self._predictor is not None:
            self._predictor.score_threshold = self._settings.score_threshold
            self._predictor.nms_threshold = self._settings.nms_threshold
            self._predictor.max_detections = self._settings.max_detections

    # Images: the executor's side

    def _on_image(self, camera: Camera, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        received = time.monotonic()
        received_at = info.get("received_timestamp") or 0
        if received_at:
            # The image has waited in the middleware while the workers were busy.
            received -= max(0.0, (time.time_ns() - received_at) * 1e-9)
        camera.complaint = ""
        if camera.silent:
            camera.silent = False
            self.get_logger().info(f"images arrive on {self._input_topic(camera)}")
        camera.put(Frame(camera, message, received), self._sequence(camera, info))
        if self._sync_timer is not None:
            if self._are_synchronous():
                self._dispatch()
            elif self._sync_timer.is_canceled():
                self._sync_timer.reset()
        elif all(each.newest is not None for each in self._cameras):
            self._dispatch()
        elif not self._dispatching:
            # A task runs after every callback that is ready now: frames that arrived together share a batch.
            self._dispatching = True
            assert self.executor is not None
            self.executor.create_task(self._dispatch)

    def _sequence(self, camera: Camera, info: dict[str, Any]) -> int | None:
        number = info.get("publication_sequence_number")
        if number is None or self.count_publishers(self._input_topic(camera)) != 1:
            return None
        return int(number)

    def _oldest_stamp(self) -> float:
        """What an image of a synchronous batch has at least."""
        stamps = [camera.newest.stamp for camera in self._cameras if camera.newest is not None]
        return max(stamps, default=0.0) - self._settings.sync_tolerance

    def _are_synchronous(self) -> bool:
        """Whether there is an image of every camera that is alive and wanted, all from the same time."""
        oldest = self._oldest_stamp()
        return all(
            camera.newest.stamp >= oldest
            if camera.newest is not None
            else camera.silent or not camera.wanted()
            for camera in self._cameras
        )

    def _dispatch(self) -> None:
        self._dispatching = False
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            oldest = self._oldest_stamp()
            for camera in self._cameras:
                if camera.newest is not None and camera.newest.stamp < oldest:
                    camera.drop()
        frames = [frame for camera in self._cameras if (frame := camera.take()) is not None]
        if frames and self._workers:
            self._batches.put((self._order.draw(), frames))

    def _on_incompatible_qos(self, camera: Camera, profile: QoSProfile) -> None:
        camera.complaint = self._explain_silence(camera, profile)
        self.get_logger().warning(camera.complaint)

    def _input_topic(self, camera: Camera) -> str:
        return camera.subscription.topic_name if camera.subscription is not None else ""

    # Images: the workers' side

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            number, frames = batch
            try:
                self._process(frames, number)
            except Exception as error:  # a node does not die of a frame
                for frame in frames:
                    self._fail(frame, error)
            finally:
                del batch, frames
                self._order.leave(number)
                if self.executor is not None:
                    self.executor.wake()

    def _process(self, frames: Sequence[Frame], number: int) -> None:
        predictor = self._predictor
        assert predictor is not None
        jobs = []
        for frame in frames:
            wanted = frame.camera.wanted()
            if not wanted:
                frame.camera.statistics.on_unwanted()
                continue
            try:
                image = image_to_rgb(frame.message)
            except Exception as error:  # ValueError, or cv2.error for what nobody thought of
                self._fail(frame, error)
                continue
            message = frame.message
            encoding = message.format if isinstance(message, CompressedImage) else message.encoding
            frame.camera.statistics.on_converted((image.shape[1], image.shape[0]), encoding)
            jobs.append((frame, wanted, image))
        if not jobs:
            return
        tasks = frozenset().union(*(frame.camera.tasks_for(wanted) for frame, wanted, _ in jobs))
        started = time.monotonic()
        try:
            results = predictor.predict(
                [image for _, _, image in jobs],
                tasks,
                confidence=any(CONFIDENCE in wanted for _, wanted, _ in jobs),
            )
        except Exception as error:
            for frame, _, _ in jobs:
                self._fail(frame, error)
            return
        ended = time.monotonic()
        with self._statistics_lock:
            self._frames_by_task.update(dict.fromkeys(tasks, len(jobs)))
            self._batches_by_size[len(jobs)] += 1
            self._prediction.add(ended, (ended - started) * 1e3)
        self._order.wait(number)
        for (frame, wanted, image), result in zip(jobs, results, strict=True):
            header = frame.message.header
            try:
                frame.camera.publish(header, image, result, wanted, self._settings.overlay_opacity)
            except Exception as error:
                self._fail(frame, error)
                continue
            now = time.monotonic()
            frame.camera.statistics.on_published(now, now - frame.received, self._stamp_age(header))

    def _stamp_age(self, header: Header) -> float | None:
        # Not by rclpy's Time, which has no room for a stamp before 1970.
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        age = (self.get_clock().now().nanoseconds - stamp) * 1e-9
        return age if 0.0 <= age <= MAX_STAMP_AGE else None

    def _fail(self, frame: Frame, error: Exception) -> None:
        if not self.context.ok():  # publishing fails while the node is being shut down
            return
        reason = str(error) or type(error).__name__
        camera, now = frame.camera, time.monotonic()
        camera.statistics.on_failed(reason)
        # Not rclpy's throttle, which would let one camera's failures hide another's.
        with self._statistics_lock:
            log = now - camera.failure_logged >= LOG_PERIOD
            if log:
                camera.failure_logged = now
        if log:
            self.get_logger().error(f"a frame of {self._input_topic(camera)} failed: {reason}")

    # Reports

    def _report(self) -> None:
        now = time.monotonic()
        predictor = self._predictor
        name = self.get_fully_qualified_name()
        device = str(predictor.device) if predictor is not None else ""
        with self._statistics_lock:
            report = NodeReport(
                state=self.state,
                fault=self._fault,
                model=predictor.model_name if predictor is not None else "",
                device=device,
                precision=predictor.precision if predictor is not None else "",
                backend=predictor.backend if predictor is not None else "",
                tasks=tuple(predictor.tasks) if predictor is not None else (),
                frames_by_task=dict(self._frames_by_task),
                batches_by_size=dict(self._batches_by_size),
                prediction=self._prediction.get(now),
            )
        message = DiagnosticArray(status=[node_status(name, report)])
        message.header.stamp = self.get_clock().now().to_msg()
        for camera in self._cameras:
            if camera.subscription is None:
                continue
            snapshot = camera.statistics.snapshot(now)
            failed = snapshot.failed - self._failures_seen[camera.name]
            self._failures_seen[camera.name] = snapshot.failed
            warning = self._notice_silence(camera, now)
            if not warning and failed > 0:
                warning = f"{failed} frames failed: {snapshot.last_error}"
            message.status.append(
                camera_status(
                    name, device, self._input_topic(camera), snapshot, warning, sorted(camera.wanted())
                )
            )
            camera.look = True
        self._diagnostics.publish(message)

    def _notice_silence(self, camera: Camera, now: float) -> str:
        """The warning about missing images that stands, or an empty string."""
        period = self._settings.no_image_warning_period
        # While nothing is taken, that no image comes says nothing about the camera. An image may also wait
        # for this very report to end, hence the second look.
        missing = period > 0 and camera.last_open - camera.last_image > period
        camera.suspected, suspected_before = missing, camera.suspected
        if missing and suspected_before and not camera.silent:
            assert camera.subscription is not None
            camera.silent = True
            camera.complaint = self._explain_silence(camera, camera.subscription.qos_profile)
            self.get_logger().warning(f"no image for {now - camera.last_image:.1f} s: {camera.complaint}")
        elif camera.silent and not missing:
            # The period has been changed since.
            camera.silent = False
            camera.complaint = ""
        if camera.silent:
            return f"no image for {now - camera.last_image:.0f} s: {camera.complaint}"
        return camera.complaint

    def _explain_silence(self, camera: Camera, requested: QoSProfile) -> str:
        topic = self._input_topic(camera)
        wanted_type = qos.IMAGE_TYPES[self._settings.image_transport]
        own_topics = {
            name
            for name, _ in self.get_publisher_names_and_types_by_node(self.get_name(), self.get_namespace())
        }
        elsewhere = {
            name: kind
            for name, types in self.get_topic_names_and_types()
            for kind in types
            if kind in qos.IMAGE_TYPES.values() and name not in own_topics and self.count_publishers(name) > 0
        }
        return qos.explain_silence(
            topic, wanted_type, requested, self.get_publishers_info_by_topic(topic), elsewhere
        )


def _end_after_signal() -> None:
    """Ends the process when a signal has come and the model, which nothing interrupts, is being prepared."""
    while rclpy.ok():
        time.sleep(0.5)
    time.sleep(GRACE)
    os._exit(0)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM, which ends the process with status 0.

    Returns:
        The exit status where the node did not run: 0 when a signal came first, 1 for an invalid parameter.
    """
    stopped = threading.Event()
    # rclpy's own handlers end the spinning. Python's would raise KeyboardInterrupt wherever a second Ctrl-C
    # finds the shutdown.
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    prepare_process()
    rclpy.init(args=list(args) if args is not None else None)
    if stopped.is_set():
        rclpy.try_shutdown()
        return 0
    try:
        node = PerceptionNode()
    except Exception as error:
        if not rclpy.ok():  # a signal has come, and everything fails
            return 0
        if not isinstance(error, (ValueError, ParameterException)):
            raise
        get_logger(NODE_NAME).fatal(str(error))
        rclpy.try_shutdown()
        return 1
    threading.Thread(target=_end_after_signal, daemon=True).start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while rclpy.ok():
        try:
            executor.spin()
        except Exception:
            # A signal; or a callback of rclpy's own, as for a negative time on /clock, which is no reason to
            # leave the cameras alone.
            if rclpy.ok():
                node.get_logger().error(
                    f"a callback failed: {traceback.format_exc()}", throttle_duration_sec=LOG_PERIOD
                )
    # The interpreter takes its handlers away before it ends, and another Ctrl-C would kill it then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node.destroy_node()
    executor.shutdown()
    rclpy.try_shutdown()
    # The cycles of a lifecycle node hold the DDS participant, whose shared memory would outlive the process.
    del node, executor
    gc.collect()
    # Everything of ours is released. The interpreter would spend seconds on taking torch apart, longer than
    # `ros2 launch` waits before it sends the next signal.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
