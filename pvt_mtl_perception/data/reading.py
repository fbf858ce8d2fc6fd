"""What all readers share: decoding with errors that name file and record, listings, id tables."""

from __future__ import annotations

import difflib
import gc
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from pvt_mtl_perception.labels import IGNORE_INDEX

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

Names = npt.NDArray[np.bytes_]
"""File names in one array: a million of them reach a started worker at once and share no reference counts."""


class SampleError(ValueError):
    """A file or record of a data set is not what its format says.

    Args:
        reason: what is wrong, and what would be right.
        file: the file.
        record: which entry of the file, where it holds several.
    """

    # One argument is enough, because a worker's error is made again from its message alone.
    def __init__(self, reason: str, file: str | Path = "", record: str = "") -> None:
        self.file = str(file)
        self.record = record
        where = ": ".join(part for part in (self.file, record) if part)
        super().__init__(f"{where}: {reason}" if where else reason)


def pack_names(names: Iterable[str]) -> Names:
    """Names as fixed-width bytes; ``unpack_name`` gives one back."""
    return np.array([os.fsencode(name) for name in names], np.bytes_)


def unpack_name(name: np.bytes_) -> str:
    """One of ``pack_names``."""
    return os.fsdecode(bytes(name))


def list_images(folder: Path, recursive: bool = False) -> list[str]:
    """The image files of a folder by name, as sorted POSIX paths relative to it.

    Raises:
        FileNotFoundError: when there is no such folder.
        SampleError: when it holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    if recursive:
        found = [
            Path(parent, name).relative_to(folder).as_posix()
            for parent, _, names in os.walk(folder)
            for name in names
        ]
    else:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries]
    images = sorted(name for name in found if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)
    if not images:
        raise SampleError(f"the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})", folder)
    return images


def by_stem(names: Sequence[str], folder: Path) -> dict[str, str]:
    """File names by themselves without their suffix.

    Raises:
        SampleError: when two have the same stem.
    """
    stems: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in stems:
            raise SampleError(f"{stems[stem]} and {name} are two images of one name", folder)
        stems[stem] = name
    return stems


def require_split(split: str, splits: Mapping[str, str] | Sequence[str], kind: str) -> None:
    """Refuses a split that a reader does not have.

    Raises:
        ValueError: naming the splits that exist.
    """
    if split not in splits:
        near = difflib.get_close_matches(split, list(splits), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{kind} has the splits {', '.join(splits)}; found {split!r}{hint}")


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        FileNotFoundError: when there is no such file.
        SampleError: when it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}")
    # The collector would walk the millions of new objects again and again, which takes longer than reading.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise SampleError(f"not JSON: {error}", path) from None
    finally:
        if collecting:
            gc.enable()


_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def _decode(path: Path, flags: int) -> npt.NDArray[Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SampleError("the file is missing", path) from None
    if not data:
        raise SampleError("the file is empty", path)
    # OpenCV 4.6 fills up a truncated JPEG, newer ones refuse it. An end before the scan is a thumbnail's, and
    # other bytes may follow the picture's own.
    truncated = (
        data.startswith(b"\xff\xd8")
        and not data.endswith(_JPEG_END)
        and _JPEG_END not in data[data.find(_JPEG_SCAN) :]
    )
    # From memory, because imread fills up a truncated file with grey and says nothing.
    try:
        image = None if truncated else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise SampleError(f"OpenCV does not decode it: {error.err}", path) from None
    if image is None:
        raise SampleError("damaged, or not an image", path)
    decoded: npt.NDArray[Any] = image
    return decoded


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB as stored: labels are drawn on the stored pixels, whatever EXIF says of them.

    Raises:
        SampleError: when the file is missing, truncated or no image.
    """
    image = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image).astype(np.uint8, copy=False)


def read_ids(
    path: Path,
    size: tuple[int, int] | None = None,
    dtype: type[np.uint8] | type[np.uint16] = np.uint8,
) -> npt.NDArray[Any]:
    """A picture of ids as stored; a palette's indices, not its colours.

    Args:
        path: a picture of one channel or with a palette.
        size: (height, width) of the image it belongs to.
        dtype: of the ids.

    Returns:
        ``dtype`` (H, W).

    Raises:
        SampleError: when the file is missing, damaged, or of another size, type or number of channels.
    """
    ids = _decode(path, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if ids.ndim != 2:
        try:
            with Image.open(path) as picture:
                mode, indices = picture.mode, np.asarray(picture) if picture.mode == "P" else None
        # Pillow has its own limit of pixels, and reports a broken PNG as a syntax error.
        except (Image.DecompressionBombError, OSError, SyntaxError) as error:
            raise SampleError(f"Pillow does not decode it: {error}", path) from None
        if indices is None:
            raise SampleError(f"has {ids.shape[2]} channels ({mode}); a mask has one, of class ids", path)
        ids = indices
    if ids.dtype != dtype:
        raise SampleError(f"holds {ids.dtype}; expected {np.dtype(dtype)} ids", path)
    if size is not None and ids.shape != size:
        raise SampleError(
            f"is {ids.shape[1]}x{ids.shape[0]} pixels, its image {size[1]}x{size[0]} (width x height)", path
        )
    return ids


def map_mask(
    ids: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_], path: Path
) -> npt.NDArray[np.uint8]:
    """A mask in other ids.

    Args:
        ids: uint8 (H, W).
        table: uint8 (256,), the new id of each.
        known: bool (256,), the ids that the format has.
        path: of the mask, for the message.

    Raises:
        SampleError: when the mask holds an id that the format does not have.
    """
    present = cv2.calcHist([ids], [0], None, [256], [0, 256]).ravel() > 0
    strangers = np.flatnonzero(present & ~known)
    if len(strangers):
        limit = int(np.flatnonzero(known & (np.arange(256) != IGNORE_INDEX)).max())
        raise SampleError(f"holds class id {strangers[0]}; the ids go up to {limit}", path)
    return cv2.LUT(ids, table).astype(np.uint8, copy=False)


def identity_table(classes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """``table`` and ``known`` of ``map_mask`` for masks that already hold 0..classes-1 and 255."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[:classes] = np.arange(classes)
    known = np.zeros(256, np.bool_)
    known[:classes] = known[IGNORE_INDEX] = True
    return table, known
