"""RViz's configurations and Foxglove's layout show topics that the node publishes, as what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pvt_mtl_perception.bags.presets import load_preset
from pvt_mtl_perception.paths import share_directory
from pvt_mtl_perception.ros.camera import OUTPUT_TYPES

NUSCENES = tuple(load_preset("nuscenes").cameras)
AUTOWARE = tuple(f"perception/pvt_mtl/camera{index}" for index in range(6))
LAYOUT = share_directory() / "config" / "foxglove" / "perception.json"


def published(*cameras: str) -> dict[str, str]:
    """Full topic name to message type, of a node with these cameras."""
    return {"/diagnostics": "DiagnosticArray"} | {
        f"/{camera}/{topic}" if camera else f"/{topic}": message_type.__name__
        for camera in cameras
        for topic, message_type in OUTPUT_TYPES.items()
    }


@pytest.mark.parametrize(
    ("name", "cameras", "overlays"),
    [("perception", ("",), 1), ("six_cameras", NUSCENES, 6), ("autoware", AUTOWARE, 6)],
)
def test_rviz_shows_images_of_every_camera(name: str, cameras: tuple[str, ...], overlays: int) -> None:
    content = yaml.safe_load((share_directory() / "rviz" / f"{name}.rviz").read_text())
    displays = content["Visualization Manager"]["Displays"]
    topics = [display["Topic"]["Value"] for display in displays]
    assert len(set(topics)) == len(topics)
    for display, topic in zip(displays, topics, strict=True):
        assert display["Class"] == "rviz_default_plugins/Image"
        assert published(*cameras)[topic] == "Image"
        # As the node publishes. Best effort would lose most large images where RViz has no Fast DDS profile.
        assert display["Topic"]["Reliability Policy"] == "Reliable"
    shown = [display["Topic"]["Value"] for display in displays if display["Enabled"]]
    assert sum(topic.endswith("/overlay") for topic in shown) == overlays


def panels_in(layout: Any, configurations: dict[str, Any]) -> Iterator[str]:
    """The ids of the panels in a mosaic, those of its tabs included."""
    if isinstance(layout, dict):
        assert layout["direction"] in ("row", "column")
        assert 0 < layout["splitPercentage"] < 100
        for side in ("first", "second"):
            yield from panels_in(layout[side], configurations)
        return
    yield layout
    for tab in configurations[layout].get("tabs", ()):
        yield from panels_in(tab["layout"], configurations)


def test_foxglove_layout_has_every_panel_once_and_real_topics() -> None:
    content = json.loads(LAYOUT.read_text())
    assert set(content) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    configurations = content["configById"]
    assert sorted(panels_in(content["layout"], configurations)) == sorted(configurations)
    shown = {
        "Image": "Image",
        "DiagnosticSummary": "DiagnosticArray",
        "DiagnosticStatusPanel": "DiagnosticArray",
    }
    topics = published("", *NUSCENES)
    for panel, settings in configurations.items():
        kind = panel.partition("!")[0]
        if kind == "RawMessages":
            topic, *fields = settings["topicPath"].split(".")
            message_type = next(kind for name, kind in OUTPUT_TYPES.items() if f"/{name}" == topic)
            assert fields[0].partition("[")[0] in message_type.get_fields_and_field_types()
        elif kind in shown:
            topic = settings["imageMode"]["imageTopic"] if kind == "Image" else settings["topicToRender"]
            assert topics[topic] == shown[kind]
        else:
            assert kind == "Tab"


def test_foxglove_layout_uses_settings_that_foxglove_has() -> None:
    layouts = pytest.importorskip("foxglove.layouts", reason="foxglove-sdk is not installed")
    # The app's exported layouts and the SDK share the panels' settings; some panels' names differ.
    known = {
        "Image": set(layouts.ImageConfig()._to_dict()),
        "RawMessages": set(layouts.RawMessagesConfig()._to_dict()),
        "DiagnosticSummary": set(layouts.DiagnosticsSummaryConfig()._to_dict()),
        "DiagnosticStatusPanel": set(layouts.DiagnosticsDetailConfig()._to_dict()),
    }
    for panel, settings in json.loads(LAYOUT.read_text())["configById"].items():
        if panel.startswith("Tab!"):
            continue
        assert set(settings) - {"foxglovePanelTitle"} <= known[panel.partition("!")[0]]
        if "imageMode" in settings:
            assert set(settings["imageMode"]) <= set(layouts.ImageModeConfig()._to_dict())
