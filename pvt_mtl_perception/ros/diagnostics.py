"""The node's /diagnostics: one status for the node and one for each camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from pvt_mtl_perception.ros.camera_statistics import Snapshot


@dataclass(frozen=True)
class NodeReport:
    """What the node says of itself.

    Attributes:
        state: lifecycle state.
        fault: why the latest configuration failed, or empty.
        model, device, precision, backend, tasks: of the loaded model, empty while there is none.
        frames_by_task: frames that each head has run on.
        batches_by_size: number of batches of each size.
        prediction: p50 and p95 of the predictor's time a batch in milliseconds, or None.
    """

    state: str
    fault: str
    model: str
    device: str
    precision: str
    backend: str
    tasks: Sequence[str]
    frames_by_task: Mapping[str, int]
    batches_by_size: Mapping[int, int]
    prediction: tuple[float, float] | None


def _status(
    level: bytes, name: str, hardware: str, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=name,
        hardware_id=hardware,
        message=message,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _percentiles(name: str, values: tuple[float, float] | None) -> dict[str, str]:
    p50, p95 = ("", "") if values is None else (f"{values[0]:.1f}", f"{values[1]:.1f}")
    return {f"{name} p50 [ms]": p50, f"{name} p95 [ms]": p95}


def node_status(name: str, report: NodeReport) -> DiagnosticStatus:
    """ERROR where the latest configuration failed, otherwise OK.

    Args:
        name: the node's full name.
        report: what it says.
    """
    batches = ", ".join(f"{size}: {count}" for size, count in sorted(report.batches_by_size.items()))
    return _status(
        DiagnosticStatus.ERROR if report.fault else DiagnosticStatus.OK,
        name,
        report.device,
        report.fault or report.state,
        {
            "state": report.state,
            "model": report.model,
            "device": report.device,
            "precision": report.precision,
            "backend": report.backend,
            "tasks": ", ".join(report.tasks),
            **{f"{task} frames": report.frames_by_task.get(task, 0) for task in report.tasks},
            "batches by size": batches,
            **_percentiles("prediction", report.prediction),
        },
    )


def camera_status(
    name: str, device: str, topic: str, statistics: Snapshot, warning: str, wanted: Sequence[str]
) -> DiagnosticStatus:
    """WARN where there is a warning, otherwise OK.

    Args:
        name: the node's full name.
        device: the device it runs on.
        topic: the camera's full input topic.
        statistics: the camera's counts, rates and latencies.
        warning: what is wrong, or empty.
        wanted: the outputs that have subscribers.
    """
    if warning:
        message = warning
    elif not wanted:
        message = "idle: nobody has subscribed to its results"
    else:
        message = f"{statistics.output_rate:.1f} of {statistics.input_rate:.1f} images/s"
    size = statistics.last_size
    return _status(
        DiagnosticStatus.WARN if warning else DiagnosticStatus.OK,
        f"{name}: {topic}",
        device,
        message,
        {
            "topic": topic,
            "input rate [Hz]": f"{statistics.input_rate:.2f}",
            "output rate [Hz]": f"{statistics.output_rate:.2f}",
            **_percentiles("latency", statistics.latency),
            **_percentiles("stamp age", statistics.stamp_age),
            "frames received": statistics.received,
            "frames processed": statistics.processed,
            "frames replaced": statistics.replaced,
            "frames nobody wanted": statistics.unwanted,
            "frames failed": statistics.failed,
            "frames lost in transport": statistics.lost,
            "last error": statistics.last_error,
            "image": f"{size[0]}x{size[1]} {statistics.last_encoding}" if size else "",
            "subscribed outputs": ", ".join(wanted),
        },
    )
