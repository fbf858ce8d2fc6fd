"""Launch arguments to the topics of each camera."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvt_mtl_perception.ros.camera_topics import camera_topics, image_transport

CONFIG = Path(__file__).resolve().parents[2] / "config" / "perception.yaml"


def pairs(params_file: Path = CONFIG, **arguments: str) -> dict[str, str]:
    defaults = {"image_topic": "", "compressed_topic": "", "cameras": "", "params_file": str(params_file)}
    return dict(pair for camera in camera_topics(defaults | arguments) for pair in camera.remappings)


@pytest.mark.parametrize(
    ("topic", "cameras", "expected"),
    [
        ("", "", {}),
        ("/camera/image_raw", "", {"image": "/camera/image_raw"}),
        ("/camera/image_raw/compressed", "", {"image": "/camera/image_raw"}),
        (
            "/cam_{camera}/rgb",
            "front, left",
            {"front/image": "/cam_front/rgb", "left/image": "/cam_left/rgb"},
        ),
        ("/cam/rgb", "front", {"front/image": "/cam/rgb"}),
    ],
)
def test_image_topics_are_remapped_raw_and_compressed(
    topic: str, cameras: str, expected: dict[str, str]
) -> None:
    both = {**expected, **{f"{own}/compressed": f"{to}/compressed" for own, to in expected.items()}}
    assert pairs(image_topic=topic, cameras=cameras) == both


def test_a_compressed_topic_of_another_name_is_taken_as_it_is() -> None:
    topic = "/cam_front/image_rect_compressed"
    assert pairs(compressed_topic=topic) == {"image/compressed": topic}
    assert pairs(image_topic="/raw", compressed_topic=topic) == {"image": "/raw", "image/compressed": topic}
    found = pairs(compressed_topic="/{camera}/jpeg", cameras="front,left")
    assert found == {"front/image/compressed": "/front/jpeg", "left/image/compressed": "/left/jpeg"}


@pytest.mark.parametrize(
    "text",
    [
        "/**: {ros__parameters: {cameras: [front, left]}}",
        "car: {perception_node: {ros__parameters: {cameras: [front, left], device: cpu}}}\nother: 1",
    ],
)
def test_cameras_of_the_parameter_file_are_known(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    found = pairs(file, image_topic="/{camera}/rgb")
    assert (found["front/image"], found["left/image"]) == ("/front/rgb", "/left/rgb")
    assert pairs(file, image_topic="/{camera}/rgb", cameras="back")["back/image"] == "/back/rgb"
    with pytest.raises(ValueError, match=r"image_topic is '/rgb'; with the cameras front, left"):
        pairs(file, image_topic="/rgb")


def test_cameras_of_several_nodes_must_be_chosen_from(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: {ros__parameters: {cameras: [front]}}\nb: {ros__parameters: {cameras: [left]}}")
    with pytest.raises(ValueError, match=r"mine\.yaml names cameras of several nodes .*cameras:=front"):
        pairs(file, image_topic="/rgb")
    assert pairs(file) == {}, "where no topic is to be remapped, nobody asks"


def test_the_transport_is_the_arguments_then_the_parameter_files(tmp_path: Path) -> None:
    def transport(text: str, argument: str = "") -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return image_transport({"image_transport": argument, "params_file": str(file)})

    compressed = "a: {ros__parameters: {image_transport: compressed}}\n"
    raw = "b: {ros__parameters: {image_transport: raw}}\n"
    assert transport("other: 1") == "raw"
    assert transport(compressed) == "compressed"
    assert transport(compressed, "raw") == "raw"
    assert transport(compressed + raw, "compressed") == "compressed"
    with pytest.raises(ValueError, match=r"mine\.yaml .*\(compressed, raw\).*image_transport:="):
        transport(compressed + raw)


def test_several_cameras_cannot_share_a_topic() -> None:
    with pytest.raises(ValueError, match=r"compressed_topic is '/jpeg'.*\{camera\}"):
        pairs(compressed_topic="/jpeg", cameras="front,left")
    with pytest.raises(ValueError, match="needs the cameras' names"):
        pairs(image_topic="/{camera}/image")
