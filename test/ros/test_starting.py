"""How a node starts, fails to start, is corrected, and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from ros_client import START_TIMEOUT, TIMEOUT, RosClient
from rosgraph_msgs.msg import Clock
from vision_msgs.msg import Classification

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def node(start_node: Any, client: RosClient, tmp_path: Path) -> Any:
    """A node that waits unconfigured; it asks for reliable images."""
    process = start_node(
        autostart=False,
        model_path=tmp_path / "missing.safetensors",
        device="cpu",
        no_image_warning_period=1.0,
        use_sim_time=True,
        **{"qos_overrides./image.subscription.reliability": "reliable"},
    )
    client.wait_for_state("unconfigured")
    yield process
    process.kill()


def test_a_node_without_autostart_is_led_through_its_states_and_corrected(
    node: Any, client: RosClient, start_camera: Any, checkpoint: Path, tmp_path: Path
) -> None:
    # A missing checkpoint: the transition fails with the reason, the node lives.
    assert not client.change_state(Transition.TRANSITION_CONFIGURE)
    node.wait_for(r"\[ERROR\].*cannot configure: no checkpoint at .*missing\.safetensors", TIMEOUT)
    values = client.node_values(lambda values: values["level"] == "ERROR")
    assert (values["state"], values["model"]) == ("unconfigured", "")
    assert "missing.safetensors" in values["message"]

    # So does a file that is no checkpoint, and a device that is not there.
    rubbish = tmp_path / "rubbish.safetensors"
    rubbish.write_bytes(b"rubbish")
    assert client.set_parameter("model_path", str(rubbish)) == ""
    assert not client.change_state(Transition.TRANSITION_CONFIGURE)
    node.wait_for(r"rubbish\.safetensors is not a complete safetensors file", TIMEOUT)
    assert client.set_parameter("model_path", str(checkpoint)) == ""
    assert client.set_parameter("device", "cuda:77") == ""
    assert not client.change_state(Transition.TRANSITION_CONFIGURE)
    node.wait_for(r"cannot configure: device 'cuda:77'", TIMEOUT)

    # What takes long is said before.
    before = node.output.split("cannot configure: device 'cuda:77'")[0].splitlines()
    announced = f"loading {checkpoint}: device cuda:77, backend auto; the first start prepares the backend"
    assert any("[INFO]" in line and announced in line for line in before), node.output

    # Corrected, it can be configured, activated, and taken back to the start.
    assert client.set_parameter("device", "cpu") == ""
    assert client.change_state(Transition.TRANSITION_CONFIGURE)
    assert client.state() == "inactive"
    values = client.node_values(lambda values: values["state"] == "inactive")
    assert (values["level"], values["model"]) == ("OK", checkpoint.stem)
    assert client.change_state(Transition.TRANSITION_ACTIVATE)

    # Nobody publishes.
    node.wait_for(r"\[WARN\].*no image for .* s: /image \(requested: reliable.*\) has no publisher", TIMEOUT)
    values = client.camera_values("/image", lambda values: values["level"] == "WARN")
    assert "has no publisher; nobody publishes images" in values["message"]

    # Somebody publishes best effort where the node was told to ask for reliable.
    camera = start_camera("image")
    node.wait_for(r"\[WARN\].*offers best effort.*on /image, this node requests reliable", TIMEOUT)
    values = client.camera_values("/image", lambda values: "best effort" in values["message"])
    assert values["level"] == "WARN"
    assert "set qos_overrides./image.subscription.reliability to best_effort" in values["message"]
    camera.stop()

    # Simulated time that nobody publishes stops neither results nor reports.
    start_camera("image", "--reliable")
    listener = client.listen(Classification, "/classification")
    listener.wait_for()
    client.forget(listener)

    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert client.change_state(Transition.TRANSITION_CLEANUP)
    assert client.node_values(lambda values: values["state"] == "unconfigured")["model"] == ""
    assert client.node.count_publishers("/classification") == 0
    assert client.change_state(Transition.TRANSITION_CONFIGURE)
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    assert client.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert client.state() == "finalized"

    node.stop_cleanly(TIMEOUT)


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
@pytest.mark.parametrize("pause", [0.0, 0.05])  # to meet the end at different places
def test_signals_end_the_node_cleanly(node: Any, signals: tuple[signal.Signals, ...], pause: float) -> None:
    for number in signals:
        node.process.send_signal(number)
        time.sleep(pause)
    assert node.wait(TIMEOUT) == 0, node.output
    assert "Traceback" not in node.output, node.output


def test_a_signal_while_the_node_is_made_ends_it_cleanly(start_node: Any) -> None:
    node = start_node("--log-level", "debug", autostart=False)
    node.wait_for("Initializing node 'perception_node'", TIMEOUT)
    node.stop_cleanly(TIMEOUT)


def test_a_nodes_shared_memory_ends_with_it(spawn: Any) -> None:
    # In a domain of its own, where it maps nobody else's.
    arguments = ("--ros-args", "-p", "model_path:=/no/such/model.safetensors")
    node = spawn("-m", "pvt_mtl_perception.ros.perception_node", *arguments)
    node.wait_for("not started", START_TIMEOUT)
    maps = Path(f"/proc/{node.process.pid}/maps").read_text()
    segments = {Path(name) for name in re.findall(r"/dev/shm/fast(?:rtps|dds)_(?!port)\w+", maps)}
    assert segments
    node.stop_cleanly(TIMEOUT)
    assert not [path for path in segments if path.exists()]


def test_a_signal_ends_a_node_that_waits_for_a_model(start_node: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:  # it takes requests and answers none
        node = start_node(
            model_path="hf://owner/model",
            environment={
                "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}",
                "HF_HUB_ETAG_TIMEOUT": "300",
            },
        )
        hub.settimeout(START_TIMEOUT)
        with hub.accept()[0]:
            node.stop_cleanly(TIMEOUT)


def test_a_time_before_zero_on_the_clock_is_survived(node: Any, client: RosClient) -> None:
    clock = client.node.create_publisher(Clock, "/clock", 1)
    while not clock.get_subscription_count():
        time.sleep(0.05)
    deadline = time.monotonic() + TIMEOUT
    # The publisher may know of the node before the node knows of it, and best effort is lost then.
    while "a callback failed" not in node.output and time.monotonic() < deadline:
        clock.publish(Clock(clock=Time(sec=-1)))
        time.sleep(0.1)
    node.wait_for(r"\[ERROR\].*a callback failed", TIMEOUT)
    client.node_values()
    assert client.state() == "unconfigured"
    client.node.destroy_publisher(clock)
    assert node.stop(TIMEOUT) == 0, node.output


@pytest.mark.parametrize("name", ["perception_node", "autoware_converter", "bag_player"])
def test_a_signal_during_the_imports_ends_an_executable_without_a_traceback(spawn: Any, name: str) -> None:
    executable = spawn(
        SCRIPTS / name,
        python="/bin/sh",
        environment={
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "PYTHONPROFILEIMPORTTIME": "1",  # prints each module that is imported
        },
    )
    executable.wait_for(r"import time:.*\brclpy\.", TIMEOUT)
    assert executable.stop(TIMEOUT) == -signal.SIGINT, executable.output
    assert "Traceback" not in executable.output, executable.output


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; allowed: one of fp32, fp16, bf16"),
        ({"score_threshold": 2.0}, "score_threshold.*Min: 0.0, Max: 1.0"),
        ({"max_detections": "many"}, "max_detections.*INTEGER"),
    ],
)
def test_an_invalid_parameter_at_the_start_is_named(
    start_node: Any, parameters: dict[str, Any], message: str
) -> None:
    node = start_node(**parameters)
    node.wait_for(rf"\[FATAL\].*{message}", TIMEOUT)
    assert node.wait(TIMEOUT) == 1
    assert "Traceback" not in node.output, node.output


def test_without_a_usable_model_an_autostarting_node_says_so_and_waits(
    start_node: Any, client: RosClient
) -> None:
    node = start_node(model_path="/no/such/model.safetensors", score_treshold=0.5)
    node.wait_for(
        r"\[WARN\].*parameter score_treshold is not known and has no effect; did you mean score_threshold\?",
        START_TIMEOUT,
    )
    node.wait_for(r"\[ERROR\].*cannot configure: no checkpoint at /no/such/model\.safetensors", START_TIMEOUT)
    node.wait_for(r"\[ERROR\].*not started.*ros2 lifecycle set /perception_node configure", TIMEOUT)
    assert client.state() == "unconfigured"
    node.stop_cleanly(TIMEOUT)


def test_an_override_that_is_no_qos_fails_the_transition_and_not_the_node(
    start_node: Any, client: RosClient, checkpoint: Path
) -> None:
    node = start_node(
        model_path=checkpoint,
        device="cpu",
        **{"qos_overrides./image.subscription.reliability": "sometimes"},
    )
    node.wait_for(
        r"\[ERROR\].*on_activate failed: .*qos_overrides\./image\.subscription: .*sometimes.*again",
        START_TIMEOUT,
    )
    values = client.node_values(
        lambda values: values["level"] == "ERROR" and "sometimes" in values["message"]
    )
    assert (values["level"], values["state"], values["model"]) == ("ERROR", "unconfigured", "")
    assert client.node.count_publishers("/detections") == 0
    node.stop_cleanly(TIMEOUT)


def test_a_camera_that_cannot_be_made_leaves_no_topic_of_the_others(
    start_node: Any, client: RosClient, checkpoint: Path
) -> None:
    node = start_node(
        model_path=checkpoint,
        device="cpu",
        cameras=["front", "left"],
        **{"qos_overrides./left/overlay.publisher.reliability": "sometimes"},
    )
    message = r"cannot configure: parameter qos_overrides\./left/overlay\.publisher: .*sometimes"
    node.wait_for(rf"\[ERROR\].*{message}", START_TIMEOUT)
    assert client.node_values(lambda values: "sometimes" in values["message"])["state"] == "unconfigured"
    assert client.node.count_publishers("/front/detections") == 0
    assert client.node.count_publishers("/left/detections") == 0
    node.stop_cleanly(TIMEOUT)
