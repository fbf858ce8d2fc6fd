"""A ROS participant inside a test: subscribes, calls services, sets parameters, reads diagnostics."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile

TIMEOUT = 60.0
START_TIMEOUT = 180.0
"""A node imports torch before it is configured, which takes ten seconds, and more on a busy machine."""

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Listener:
    """The messages of one topic, oldest first."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._messages: list[Any] = []
        self._news = threading.Condition()

    def receive(self, message: Any) -> None:
        with self._news:
            self._messages.append(message)
            self._news.notify_all()

    def forget_all(self) -> None:
        with self._news:
            self._messages.clear()

    @property
    def messages(self) -> list[Any]:
        with self._news:
            return list(self._messages)

    def wait_for(self, condition: Callable[[Any], bool] = lambda _: True, timeout: float = TIMEOUT) -> Any:
        """The first message from now on that meets the condition."""
        deadline = time.monotonic() + timeout
        with self._news:
            seen = len(self._messages)
            while True:
                for message in self._messages[seen:]:
                    if condition(message):
                        return message
                seen = len(self._messages)
                left = deadline - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    count = len(self._messages)
                    raise AssertionError(
                        f"{self.topic}: none of {count} messages is right after {timeout:g} s"
                        + (f"; the last is {str(self._messages[-1])[:600]}" if count else "")
                    )

    def first(self, timeout: float = TIMEOUT) -> Any:
        """The first message of all."""
        return self.first_messages(1, timeout)[0]

    def first_messages(self, count: int, timeout: float = TIMEOUT) -> list[Any]:
        """All messages as soon as there are ``count`` of them."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(self._messages) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    raise AssertionError(
                        f"{self.topic}: {len(self._messages)} of {count} messages within {timeout:g} s"
                    )
            return list(self._messages)


class RosClient:
    """A node in the domain of the processes under test; ``close`` ends it."""

    def __init__(self, domain_id: int, target: str = "/perception_node") -> None:
        self.target = target
        self.context = Context()
        self.context.init(domain_id=domain_id)
        self.node = Node("test_client", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.diagnostics = self.listen(DiagnosticArray, "/diagnostics")

    def _spin(self) -> None:
        while not self._closed.is_set():
            self._executor.spin_once()

    def in_executor(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Calls ``action`` between two waits of the executor.

        What it waits for at that moment must not be destroyed: it raises or, worse, misses what is ready.
        """
        done = threading.Event()

        def run() -> None:
            try:
                action(*arguments)
            finally:
                done.set()

        self._executor.create_task(run)
        assert done.wait(TIMEOUT), "the test's executor does not answer"

    def close(self) -> None:
        self.in_executor(self._closed.set)
        self._thread.join(5)
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def listen(self, message_type: Any, topic: str, profile: QoSProfile | int = 10) -> Listener:
        listener = Listener(topic)
        listener.subscription = self.node.create_subscription(message_type, topic, listener.receive, profile)
        return listener

    def forget(self, *listeners: Listener) -> None:
        for listener in listeners:
            self.in_executor(self.node.destroy_subscription, listener.subscription)

    def call(
        self,
        service_type: Any,
        name: str,
        request: Any,
        timeout: float = TIMEOUT,
        again: float | None = None,
    ) -> Any:
        """The response; a request that may be repeated is sent ``again`` after so many seconds.

        DDS loses a request to a node that the client has not found yet, where a node of the same name has
        just ended and still counts as there.
        """
        client = self.node.create_client(service_type, f"{self.target}/{name}")
        try:
            assert client.wait_for_service(timeout), f"no service {self.target}/{name} within {timeout:g} s"
            responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
            interval = again or timeout
            for _ in range(math.ceil(timeout / interval)):
                client.call_async(request).add_done_callback(responses.put)
                with contextlib.suppress(queue.Empty):
                    return responses.get(timeout=interval).result()
            raise AssertionError(f"{self.target}/{name} did not answer within {timeout:g} s")
        finally:
            self.in_executor(self.node.destroy_client, client)

    def state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request(), again=5.0).current_state.label

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "change_state", request, START_TIMEOUT).success

    def wait_for_state(self, label: str, timeout: float = START_TIMEOUT) -> None:
        self.node_values(lambda values: values["state"] == label, timeout)

    def set_parameter(self, name: str, value: Any) -> str:
        """The reason why the value is refused, or an empty string."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(SetParameters, "set_parameters", request).results[0]
        assert result.successful == (not result.reason)
        return result.reason

    def get_parameter(self, name: str) -> Any:
        request = GetParameters.Request(names=[name])
        values = self.call(GetParameters, "get_parameters", request, again=5.0).values
        return parameter_value_to_python(values[0])

    def node_values(
        self, condition: Callable[[Mapping[str, str]], bool] = lambda _: True, timeout: float = TIMEOUT
    ) -> dict[str, str]:
        """The values of the node's diagnostic status, from the next report that meets the condition."""
        return self._values(self.target, condition, timeout)

    def camera_values(
        self,
        topic: str,
        condition: Callable[[Mapping[str, str]], bool] = lambda _: True,
        timeout: float = TIMEOUT,
    ) -> dict[str, str]:
        """As ``node_values`` for the camera with this input topic; ``level`` and ``message`` are added."""
        return self._values(f"{self.target}: {topic}", condition, timeout)

    def _values(
        self, name: str, condition: Callable[[Mapping[str, str]], bool], timeout: float
    ) -> dict[str, str]:
        def read(report: DiagnosticArray) -> dict[str, str] | None:
            for status in report.status:
                if status.name == name:
                    return {
                        "level": level_name(status.level),
                        "message": status.message,
                        **{pair.key: pair.value for pair in status.values},
                    }
            return None

        def fits(report: DiagnosticArray) -> bool:
            values = read(report)
            return values is not None and condition(values)

        values = read(self.diagnostics.wait_for(fits, timeout))
        assert values is not None
        return values


def level_name(level: bytes) -> str:
    """A diagnostic level in words."""
    return {DiagnosticStatus.OK: "OK", DiagnosticStatus.WARN: "WARN", DiagnosticStatus.ERROR: "ERROR"}[level]
