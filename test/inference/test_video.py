"""Videos are H.264 in yuv420p, of the right size and duration, and complete or absent."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pvt_mtl_perception.inference.video import VideoReader, VideoWriter


def frame(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A flat grey that tells the index."""
    return np.full((height, width, 3), 20 + 10 * index, np.uint8)


def test_video_is_h264_yuv420p_that_starts_to_play_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=10) as writer:
        for index in range(15):
            writer.write(frame(index))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height, stream.frames) == (64, 48, 15)
        assert container.duration == pytest.approx(1.5e6, abs=0.11e6)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_frames_and_their_times_come_back(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.35, 0.4, 1.0]
    with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
        for index, time in enumerate(times):
            writer.write(frame(index), time)
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert reader.frames == 5
        frames = list(reader)
    assert [time for time, _ in frames] == pytest.approx(times, abs=1e-3)
    for index, (_, image) in enumerate(frames):
        assert image.shape == (48, 64, 3)
        assert abs(float(image.mean()) - (20 + 10 * index)) < 3


def test_colors_are_rgb(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(np.full((32, 32, 3), (200, 40, 30), np.uint8))
    with VideoReader(tmp_path / "a.mp4") as reader:
        _, image = next(iter(reader))
    assert np.abs(image[16, 16].astype(int) - (200, 40, 30)).max() <= 6


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(frame(0, 47, 63))
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert next(iter(reader))[1].shape == (48, 64, 3)


def test_times_that_go_back_do_not_break_the_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for time in (0.0, 0.2, 0.2, 0.1, 0.3):
            writer.write(frame(0), time)
    with VideoReader(tmp_path / "a.mp4") as reader:
        times = [time for time, _ in reader]
    assert len(times) == 5
    assert times == sorted(times)


def test_another_size_is_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(frame(0))
        with pytest.raises(ValueError, match=r"a\.mp4: a frame of 64x40 in a video of 64x48"):
            writer.write(frame(1, 40))


def test_an_exception_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path) as writer:
        writer.write(frame(0))
    before = path.read_bytes()

    def interrupted() -> None:
        with VideoWriter(path) as writer:
            writer.write(frame(1))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(FileNotFoundError, match=r"no video at .*a\.mp4"):
        VideoReader(path)
    path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        VideoReader(path)
