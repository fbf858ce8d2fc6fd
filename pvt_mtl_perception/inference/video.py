"""Videos out of and into RGB frames: H.264 that every browser and player shows."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

# Milliseconds: fine enough for any camera, and a whole number of it fits every stamp's rounding.
_TIME_BASE = Fraction(1, 1000)


class VideoWriter:
    """Writes frames with their times as H.264 in yuv420p.

    Use as a context manager. The file appears under its name when it is complete: an exception leaves an
    earlier file as it was.

    Args:
        path: an ``.mp4`` file; its folder must exist.
        fps: the nominal frame rate in Hz, for the encoder and for frames without a time.
        crf: x264's constant rate factor, 0 (lossless) to 51.
    """

    def __init__(self, path: str | Path, fps: float = 30.0, crf: int = 23) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.path.parent} for the video {self.path.name}")
        if fps <= 0:
            raise ValueError(f"fps is {fps}; it must be above 0")
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        rate = Fraction(fps).limit_denominator(1001)
        self._stream: VideoStream = self._container.add_stream("libx264", rate=rate)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(crf), "preset": "veryfast"}
        self._stream.codec_context.time_base = _TIME_BASE
        # Untagged, players guess the matrix from the size, and colours shift.
        self._stream.codec_context.colorspace = Colorspace.ITU709
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._interval = 1.0 / fps
        self._size: tuple[int, int] | None = None
        self._last = -1

    def write(self, image: npt.NDArray[np.uint8], seconds: float | None = None) -> None:
        """Appends a frame.

        Args:
            image: uint8 (H, W, 3), RGB, of the first frame's size. An odd side is made even by repeating
                the last row or column, which yuv420p needs.
            seconds: when it is shown, from the start of the video; one frame interval after the frame
                before it when None. A time that is not later is moved behind the frame before it.

        Raises:
            ValueError: for an image of another size.
        """
        height, width = image.shape[:2]
        if self._size is None:
            self._size = height, width
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
        if (height, width) != self._size:
            raise ValueError(
                f"{self.path}: a frame of {width}x{height} in a video of {self._size[1]}x{self._size[0]}"
            )
        if height % 2 or width % 2:
            padded = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            image = np.asarray(padded, np.uint8)
        if seconds is None:
            time = 0 if self._last < 0 else self._last + round(self._interval / _TIME_BASE)
        else:
            time = round(seconds / _TIME_BASE)
        self._last = max(time, self._last + 1)
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = rgb.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts = self._last
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._size is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None and self._size is not None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


class VideoReader:
    """The frames of a video file.

    Use as a context manager.

    Attributes:
        fps: average frame rate in Hz.
        frames: number of frames as the file states it, or None.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no video, naming it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no video at {self.path}")
        try:
            self._container = av.open(str(self.path))
        except av.FFmpegError as error:
            raise ValueError(f"{self.path} cannot be read as a video: {error}") from None
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{self.path} has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.fps = float(self._stream.average_rate or 30)
        self.frames: int | None = self._stream.frames or None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """Time in seconds from the first frame, and the frame: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: when the file is damaged on the way, naming it.
        """
        start: float | None = None
        index = 0
        try:
            for frame in self._container.decode(self._stream):
                time = frame.time if frame.time is not None else index / self.fps
                start = time if start is None else start
                image: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24").view(np.uint8)
                yield time - start, image
                index += 1
        except av.FFmpegError as error:
            raise ValueError(f"{self.path} is damaged after frame {index}: {error}") from None
