"""Results of a bag are the predictor's, with their images' stamps and headers, however often it is killed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bag_files import FRAME_ID, LAG, TOPIC, stamp, street, write_bag
from checkpoints import make_checkpoint
from rosbags.highlevel import AnyReader

from pvt_mtl_perception.bags.overlay import write_overlay_video
from pvt_mtl_perception.bags.predict import predict_bag
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.bags.results import ResultReader, ResultTopics, result_topics
from pvt_mtl_perception.inference.files import result_record
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.inference.video import VideoReader
from pvt_mtl_perception.paths import shipped_checkpoint
from pvt_mtl_perception.result import Result

PLACES = ResultTopics.under("/rig/front")
OUTPUTS = {
    PLACES.detections: "vision_msgs/msg/Detection2DArray",
    PLACES.mask: "sensor_msgs/msg/Image",
    PLACES.classification: "vision_msgs/msg/Classification",
    PLACES.label_info: "vision_msgs/msg/LabelInfo",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, device="cpu")


def messages_of(bag: Path) -> list[tuple[str, int, Any]]:
    """Every message, read by rosbags alone with the types that the bag itself brings."""
    with AnyReader([bag]) as reader:
        return [
            (connection.topic, timestamp, reader.deserialize(data, connection.msgtype))
            for connection, timestamp, data in reader.messages()
        ]


def comparable(bag: Path) -> list[tuple[str, int, str]]:
    """The messages as text, topic by topic."""
    with np.printoptions(threshold=sys.maxsize):
        return sorted((topic, timestamp, repr(message)) for topic, timestamp, message in messages_of(bag))


@pytest.mark.parametrize("kind", ["ros1", "sqlite3", "mcap"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_results_have_the_headers_and_times_of_their_images(
    tmp_path: Path, predictor: Predictor, kind: str, storage: Any
) -> None:
    source = write_bag(tmp_path / "drive", kind, [street(index) for index in range(3)])
    summary = predict_bag(source, tmp_path / "results", predictor, storage=storage, progress=False)
    assert (summary.images, summary.failed) == (3, 0)
    assert summary.topics == {TOPIC: PLACES}
    found = messages_of(tmp_path / "results")
    for topic in OUTPUTS:
        mine = [(timestamp, message) for name, timestamp, message in found if name == topic]
        count = 1 if topic == PLACES.label_info else 3
        assert [timestamp for timestamp, _ in mine] == [stamp(index) + LAG for index in range(count)]
        for index, (_, message) in enumerate(mine):
            time = message.header.stamp
            assert time.sec * 10**9 + time.nanosec == stamp(index)
            assert message.header.frame_id == FRAME_ID
    for topic, _, message in found:
        if topic == PLACES.detections:
            assert all(detection.header == message.header for detection in message.detections)


def test_messages_say_what_the_predictor_says(tmp_path: Path, predictor: Predictor) -> None:
    images = [street(index) for index in range(3)]
    source = write_bag(tmp_path / "drive", "mcap", images)
    predict_bag(source, tmp_path / "results", predictor, progress=False)
    expected = [predictor.predict([image])[0] for image in images]
    assert sum(len(result.detections) for result in expected) > 0
    by_topic: dict[str, list[Any]] = {topic: [] for topic in OUTPUTS}
    for topic, _, message in messages_of(tmp_path / "results"):
        by_topic[topic].append(message)
    names = predictor.labels.detection.names
    for message, result in zip(by_topic[PLACES.detections], expected, strict=True):
        boxes = [
            (
                d.bbox.center.position.x - d.bbox.size_x / 2,
                d.bbox.center.position.y - d.bbox.size_y / 2,
                d.bbox.center.position.x + d.bbox.size_x / 2,
                d.bbox.center.position.y + d.bbox.size_y / 2,
            )
            for d in message.detections
        ]
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), result.detections.boxes, atol=1e-4)
        hypotheses = [d.results[0].hypothesis for d in message.detections]
        assert [h.class_id for h in hypotheses] == [names[label] for label in result.detections.labels]
        np.testing.assert_allclose([h.score for h in hypotheses], result.detections.scores, atol=1e-6)
    for message, result in zip(by_topic[PLACES.mask], expected, strict=True):
        assert (message.encoding, message.height, message.width, message.step) == ("mono8", 60, 90, 90)
        np.testing.assert_array_equal(message.data.reshape(60, 90), result.segmentation.mask)
    for message, result in zip(by_topic[PLACES.classification], expected, strict=True):
        first = {h.class_id.partition("/")[0]: h for h in reversed(message.results)}
        for group, probabilities in result.classification.probabilities.items():
            best = predictor.labels.classification[group].names[int(probabilities.argmax())]
            assert first[group].class_id == f"{group}/{best}"
            assert first[group].score == pytest.approx(float(probabilities.max()), abs=1e-6)
    (info,) = by_topic[PLACES.label_info]
    assert [(c.class_id, c.class_name) for c in info.class_map] == list(
        enumerate(predictor.labels.segmentation.names)
    )


def test_bag_metadata_is_what_a_player_needs(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(5)])
    predict_bag(source, tmp_path / "results", predictor, segment=2, progress=False, settings={"note": "x"})
    metadata = yaml.safe_load((tmp_path / "results" / "metadata.yaml").read_text())
    info = metadata["rosbag2_bagfile_information"]
    files = [f"results_{index}.mcap" for index in range(3)]
    assert info["relative_file_paths"] == files
    assert [file["path"] for file in info["files"]] == files
    assert [file["message_count"] for file in info["files"]] == [7, 6, 3]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["metadata.yaml", *files]
    assert info["message_count"] == 16
    assert info["starting_time"]["nanoseconds_since_epoch"] == stamp(0) + LAG
    assert info["duration"]["nanoseconds"] == stamp(4) - stamp(0)
    assert info["custom_data"]["note"] == "x"
    topics = {t["topic_metadata"]["name"]: t for t in info["topics_with_message_count"]}
    assert {name: t["topic_metadata"]["type"] for name, t in topics.items()} == OUTPUTS
    assert {name: t["message_count"] for name, t in topics.items()} == {
        name: 1 if name == PLACES.label_info else 5 for name in OUTPUTS
    }
    qos = topics[PLACES.label_info]["topic_metadata"]["offered_qos_profiles"][0]
    assert (qos["durability"], qos["reliability"]) == ("transient_local", "reliable")
    # Detection2DArray of vision_msgs 4.1.1 as released.
    released = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    assert topics[PLACES.detections]["topic_metadata"]["type_description_hash"] == released


def test_results_are_read_back_by_stamp(tmp_path: Path, predictor: Predictor) -> None:
    images = [street(index) for index in range(4)]
    source = write_bag(tmp_path / "drive", "mcap", images)
    predict_bag(source, tmp_path / "results", predictor, progress=False)
    with BagReader(tmp_path / "results") as reader:
        results = ResultReader(reader, PLACES, predictor.labels)
        assert results.take(stamp(0) - 1) is None
        for index in (0, 2, 3):
            found = results.take(stamp(index))
            assert found is not None
            expected = predictor.predict([images[index]])[0]
            np.testing.assert_allclose(found.detections.boxes, expected.detections.boxes, atol=1e-3)
            np.testing.assert_array_equal(found.detections.labels, expected.detections.labels)
            np.testing.assert_array_equal(found.segmentation.mask, expected.segmentation.mask)
            for group, probabilities in expected.classification.probabilities.items():
                np.testing.assert_allclose(
                    found.classification.probabilities[group], probabilities, atol=1e-6
                )
            assert set(found.timestamps.values()) == {stamp(index) + LAG}
        assert results.take(stamp(9)) is None


def test_batches_give_the_same_bag(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(5)])
    predict_bag(source, tmp_path / "one", predictor, progress=False)
    predict_bag(source, tmp_path / "three", predictor, batch_size=3, progress=False)
    labels = predictor.labels
    with BagReader(tmp_path / "one") as one, BagReader(tmp_path / "three") as three:
        single, batch = ResultReader(one, PLACES, labels), ResultReader(three, PLACES, labels)
        for index in range(5):
            left, right = single.take(stamp(index)), batch.take(stamp(index))
            assert left is not None and right is not None
            np.testing.assert_array_equal(left.detections.labels, right.detections.labels)
            np.testing.assert_allclose(left.detections.boxes, right.detections.boxes, atol=1e-2)
            assert (left.segmentation.mask == right.segmentation.mask).mean() > 0.999


def test_images_are_copied_on_request(tmp_path: Path, predictor: Predictor) -> None:
    for kind, compressed in (("ros1", ""), ("mcap", "png")):
        source = write_bag(tmp_path / kind, kind, [street(0), street(1)], compressed=compressed)
        target = tmp_path / f"{kind}_results"
        predict_bag(source, target, predictor, with_images=True, progress=False)
        with BagReader(target) as reader:
            copies = list(reader.images(reader.select([TOPIC])))
        assert [copy.stamp for copy in copies] == [stamp(0), stamp(1)]
        np.testing.assert_array_equal(copies[1].decode(), street(1))


def test_cameras_in_one_namespace_get_one_each(tmp_path: Path, predictor: Predictor) -> None:
    assert result_topics(["/a/image", "/b/image"])["/b/image"].detections == "/b/detections"
    assert result_topics(["/image"])["/image"].mask == "/segmentation/mask"
    # The second is in the namespace that the first one moves to.
    nested = result_topics(["/cam/image", "/cam/image/compressed", "/cam/rear"])
    assert [places.detections for places in nested.values()] == [
        "/cam/image/detections",
        "/cam/image/compressed/detections",
        "/cam/rear/detections",
    ]
    source = write_bag(tmp_path / "drive", "mcap", [street(0)], "/rig/left", other_topics=["/rig/right"])
    summary = predict_bag(
        source, tmp_path / "results", predictor, ["/rig/left", "/rig/right"], progress=False
    )
    assert summary.images == 2
    with BagReader(tmp_path / "results") as reader:
        names = {topic.name for topic in reader.topics}
    assert {"/rig/left/detections", "/rig/right/detections", "/rig/right/segmentation/mask"} <= names


def test_single_task_models_write_their_topics_only(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "segmentation.safetensors", tasks=["segmentation"])
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    predict_bag(source, tmp_path / "results", Predictor(model, "cpu"), progress=False)
    with BagReader(tmp_path / "results") as reader:
        assert {topic.name for topic in reader.topics} == {PLACES.mask, PLACES.label_info}


def test_a_damaged_image_is_left_out_and_counted(
    tmp_path: Path, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    images = [street(index) for index in range(4)]
    source = write_bag(tmp_path / "drive", "mcap", images, damaged=[1])
    summary = predict_bag(source, tmp_path / "results", predictor, progress=False)
    assert (summary.images, summary.failed) == (4, 1)
    assert "drive, topic /rig/front/image_raw, stamp 1700000000.223456789" in caplog.text
    with BagReader(tmp_path / "results") as reader:
        counts = {topic.name: topic.count for topic in reader.topics}
    assert counts[PLACES.detections] == 3


def test_only_damaged_images_are_an_error(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0), street(1)], damaged=[0, 1])
    with pytest.raises(ValueError, match="drive: none of 2 images could be decoded"):
        predict_bag(source, tmp_path / "results", predictor, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive"]


def test_an_existing_target_is_kept(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="other exists already and is something else"):
        predict_bag(source, tmp_path / "other", predictor, progress=False)
    first = predict_bag(source, tmp_path / "results", predictor, progress=False)
    written = (tmp_path / "results" / "results_0.mcap").stat().st_mtime_ns
    assert predict_bag(source, tmp_path / "results", predictor, progress=False) == first
    assert (tmp_path / "results" / "results_0.mcap").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="made with storage 'mcap', not 'sqlite3'"):
        predict_bag(source, tmp_path / "results", predictor, storage="sqlite3", progress=False)


def command(source: Path, target: Path, checkpoint: Path) -> list[str]:
    module = ["-m", "pvt_mtl_perception.cli", "bag", str(source), str(target)]
    # The engine of the predictor that the results are compared with.
    engine = ["--model", str(checkpoint), "--device", "cpu", "--backend", "eager"]
    return [sys.executable, *module, *engine, "--segment", "2"]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline, f"no {path} after 60 s"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_run_goes_on_to_the_same_bag(
    tmp_path: Path, predictor: Predictor, checkpoint: Path, number: signal.Signals
) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(30)])
    target = tmp_path / "results"
    part = tmp_path / "results.part"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(source, target, checkpoint), env=environment, stderr=subprocess.PIPE
    ) as process:
        wait_for(part / "results_2" / "metadata.yaml", process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert b"Traceback" not in errors
    assert not target.exists()
    kept = {path: path.stat().st_mtime_ns for path in part.glob("*/*.mcap")}
    finished = [path for path in kept if (path.parent / "metadata.yaml").exists()]
    assert 3 <= len(finished) < 15

    subprocess.run(command(source, target, checkpoint), env=environment, check=True, capture_output=True)
    assert not part.exists()
    for path in finished:
        assert (target / path.name).stat().st_mtime_ns == kept[path], "a finished file was made again"
    predict_bag(source, tmp_path / "whole", predictor, progress=False)
    assert comparable(target) == comparable(tmp_path / "whole")


def test_a_part_of_another_run_is_refused(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    part = tmp_path / "results.part"
    part.mkdir()
    (part / "run.json").write_text('{"score_threshold": "0.9"}')
    with pytest.raises(
        ValueError, match=r"results\.part is part of a run with score_threshold '0\.9', not '0\.35'"
    ):
        predict_bag(source, tmp_path / "results", predictor, progress=False)


def test_finishing_goes_on_after_a_kill_between_its_steps(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(4)])
    target, part = tmp_path / "results", tmp_path / "results.part"
    predict_bag(source, target, predictor, segment=2, progress=False)
    expected = comparable(target)
    # As a kill leaves it: the metadata are written, one of two files is in its place.
    target.rename(part)
    (part / "results_1").mkdir()
    (part / "results_1.mcap").rename(part / "results_1" / "results_1.mcap")
    (part / "results_1" / "metadata.yaml").write_text("")
    summary = predict_bag(source, target, predictor, segment=2, progress=False)
    assert summary.images == 4
    assert comparable(target) == expected


def test_a_complete_part_of_another_run_is_refused(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    target = tmp_path / "results"
    predict_bag(source, target, predictor, progress=False)
    # As a kill leaves it: all is done but the folder's new name.
    target.rename(tmp_path / "results.part")
    with pytest.raises(
        ValueError, match=r"results\.part is part of a run with storage 'mcap', not 'sqlite3'"
    ):
        predict_bag(source, target, predictor, storage="sqlite3", progress=False)
    assert predict_bag(source, target, predictor, progress=False).images == 1


def test_results_of_another_bag_of_the_same_path_are_refused(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    target, part = tmp_path / "results", tmp_path / "results.part"
    predict_bag(source, target, predictor, progress=False)
    shutil.rmtree(source)
    write_bag(source, "mcap", [street(1)])
    with pytest.raises(FileExistsError, match="results exists already and is made with source_files 'drive"):
        predict_bag(source, target, predictor, progress=False)
    target.rename(part)
    with pytest.raises(ValueError, match=r"results\.part is part of a run with source_files 'drive"):
        predict_bag(source, target, predictor, progress=False)


@pytest.mark.parametrize("damaged", ["results_0", "results_1"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_file_that_a_power_cut_emptied_is_predicted_again(
    tmp_path: Path,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    storage: Any,
    damaged: str,
) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(5)])
    target, part = tmp_path / "results", tmp_path / "results.part"
    settings = {"storage": storage, "segment": 2, "progress": False}
    predict_bag(source, tmp_path / "whole", predictor, **settings)

    def ended(*_: object) -> None:
        raise RuntimeError("the end")

    with monkeypatch.context() as patch:
        patch.setattr("pvt_mtl_perception.bags.predict._Part.finish", ended)
        with pytest.raises(RuntimeError, match="the end"):
            predict_bag(source, target, predictor, **settings)
    files = {path.parent.name: path for path in part.glob("results_*/results_*.*")}
    assert sorted(files) == ["results_0", "results_1", "results_2"]
    before = files["results_0"].stat().st_mtime_ns
    files[damaged].write_bytes(b"")
    summary = predict_bag(source, target, predictor, **settings)
    assert summary.images == 5
    assert f"{damaged} has lost messages" in caplog.text
    assert comparable(target) == comparable(tmp_path / "whole")
    made_again = (target / files["results_0"].name).stat().st_mtime_ns != before
    assert made_again == (damaged == "results_0")


def test_a_file_without_a_message_counts_as_finished(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = [street(index) for index in range(3)]
    source = write_bag(tmp_path / "drive", "mcap", images, damaged=[0, 1])
    with monkeypatch.context() as patch:
        patch.setattr("pvt_mtl_perception.bags.predict._Part.finish", lambda *_: None)
        predict_bag(source, tmp_path / "results", predictor, segment=2, progress=False)
    caplog.clear()
    summary = predict_bag(source, tmp_path / "results", predictor, segment=2, progress=False)
    assert (summary.images, summary.failed) == (3, 2)
    assert caplog.text == ""


def test_a_video_of_images_without_stamps_takes_as_long_as_the_recording(
    tmp_path: Path, predictor: Predictor
) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(4)], stamped=False)
    predict_bag(source, tmp_path / "results", predictor, progress=False)
    video = tmp_path / "a.mp4"
    arguments = (source, TOPIC, tmp_path / "results", PLACES, predictor.labels)
    assert write_overlay_video(video, *arguments, progress=False) == 4
    with VideoReader(video) as reader:
        assert [time for time, _ in reader] == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-3)


def test_images_of_another_size_are_fitted_into_the_video(tmp_path: Path, predictor: Predictor) -> None:
    sizes = [(60, 90), (120, 90), (60, 90)]
    images = [np.full((*size, 3), 255, np.uint8) for size in sizes]
    source = write_bag(tmp_path / "drive", "mcap", images)
    predict_bag(source, tmp_path / "results", predictor, progress=False)
    video = tmp_path / "a.mp4"
    arguments = (source, TOPIC, tmp_path / "results", PLACES, predictor.labels)
    assert write_overlay_video(video, *arguments, opacity=0.0, progress=False) == 3
    with VideoReader(video) as reader:
        frames = [image for _, image in reader]
    assert [frame.shape for frame in frames] == [(60, 90, 3)] * 3
    # 120x90 becomes 60x45, with black on either side of it.
    lit = np.median(frames[1].mean(axis=2), axis=0)
    assert lit[:18].max() < 40 and lit[-18:].max() < 40
    assert lit[26:64].min() > 80


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "rosbag2_bagfile_information: {version: 4}",
            FileExistsError,
            "results exists already and is something else",
        ),
        ("rosbag2_bagfile_information: [", ValueError, r"results/metadata\.yaml is no YAML"),
        ("", ValueError, r"results/metadata\.yaml has no `rosbag2_bagfile_information:`"),
    ],
)
def test_a_target_with_other_or_damaged_metadata_is_named(
    tmp_path: Path, predictor: Predictor, text: str, error: type[Exception], message: str
) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metadata.yaml").write_text(text)
    with pytest.raises(error, match=message):
        predict_bag(source, tmp_path / "results", predictor, progress=False)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(
    tmp_path: Path, predictor: Predictor, storage: Any
) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(index) for index in range(2)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"results\.part/unfinished/results_0"):
            predict_bag(source, tmp_path / "results", predictor, storage=storage, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    # As a kill within the writing of the notes leaves it.
    (tmp_path / "results.part" / ".run.json.l0ht7mc9.partial").write_text("{")
    assert predict_bag(source, tmp_path / "results", predictor, storage=storage, progress=False).images == 2
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {
        ".yaml", {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    }  # fmt: skip


def test_an_emptied_note_of_a_part_is_named(tmp_path: Path, predictor: Predictor) -> None:
    source = write_bag(tmp_path / "drive", "mcap", [street(0)])
    (tmp_path / "results.part").mkdir()
    (tmp_path / "results.part" / "run.json").write_text("")
    with pytest.raises(ValueError, match=r"results\.part/run\.json is no JSON"):
        predict_bag(source, tmp_path / "results", predictor, progress=False)


def test_video_shows_each_image_with_its_results(tmp_path: Path, predictor: Predictor) -> None:
    images = [street(index, 97, 131) for index in range(5)]
    source = write_bag(tmp_path / "drive", "ros1", images)
    predict_bag(source, tmp_path / "results", predictor, progress=False)
    count = write_overlay_video(
        tmp_path / "a.mp4", source, TOPIC, tmp_path / "results", PLACES, predictor.labels, progress=False
    )
    assert count == 5
    with VideoReader(tmp_path / "a.mp4") as reader:
        frames = list(reader)
    assert [time for time, _ in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert frames[0][1].shape == (98, 132, 3)
    drawn = frames[2][1][:97, :131].astype(int)
    assert np.abs(drawn - images[2]).mean() > 8, "nothing is drawn on the image"


def test_the_shipped_model_sees_in_the_street_bag_what_it_saw(tmp_path: Path) -> None:
    """The expected file is ``scripts/make_test_bag.py``'s; a new checkpoint needs it written again."""
    folder = Path(__file__).resolve().parents[1] / "data"
    expected = [json.loads(line) for line in (folder / "street.jsonl").read_text().splitlines()]
    predictor = Predictor(shipped_checkpoint(), device="cpu")
    predict_bag(folder / "street.mcap", tmp_path / "results", predictor, progress=False)
    with BagReader(tmp_path / "results") as results:
        reader = ResultReader(results, ResultTopics.under("/street/image"), predictor.labels)
        found = {stamp: reader.take(stamp) for stamp in (record.pop("stamp") for record in expected)}
    boxes = 0
    for result, wanted in zip(found.values(), expected, strict=True):
        assert result is not None
        height, width = result.segmentation.mask.shape
        parts = (result.detections, result.segmentation, result.classification)
        seen = result_record(Result(height, width, *parts), predictor.labels)
        assert (seen["width"], seen["height"]) == (wanted["width"], wanted["height"])
        # Another version of a JPEG decoder moves a grey level here and there.
        for name in seen["segmentation"].keys() | wanted["segmentation"].keys():
            shares = [record["segmentation"].get(name, 0) for record in (seen, wanted)]
            assert shares[0] == pytest.approx(shares[1], abs=0.003), name
        for group, probabilities in wanted["classification"].items():
            assert seen["classification"][group] == pytest.approx(probabilities, abs=0.02)
        # A score on the threshold may fall on either side of it.
        sure = [box for box in wanted["detections"] if box["score"] > predictor.score_threshold + 0.02]
        for box in sure:
            assert any(
                box["class"] == other["class"]
                and other["score"] == pytest.approx(box["score"], abs=0.02)
                and other["box"] == pytest.approx(box["box"], abs=1.0)
                for other in seen["detections"]
            ), box
        boxes += len(sure)
    assert boxes >= 3
