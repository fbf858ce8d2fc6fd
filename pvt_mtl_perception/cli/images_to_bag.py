"""Makes a ROS 2 bag of a folder's pictures in the order of their names, to be played or predicted."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "a ROS 2 bag from a folder of pictures"

START = 1_000_000_000 * 10**9
"""The first picture's stamp in ns: a fixed one, so that the same pictures give the same bag."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="pictures, sorted by name")
    parser.add_argument("target", type=Path, metavar="OUT", help="folder of the new bag")
    parser.add_argument("--fps", type=float, required=True, help="pictures a second")
    parser.add_argument("--topic", default="/camera/image_raw", help="default: %(default)s")
    parser.add_argument("--frame-id", default="camera", help="of the headers; default: %(default)s")
    parser.add_argument(
        "--codec",
        choices=["raw", "jpeg", "png"],
        default="raw",
        help="raw writes sensor_msgs/Image, the others CompressedImage; default: %(default)s",
    )
    parser.add_argument("--storage", choices=["mcap", "sqlite3"], default="mcap", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Writes the bag."""
    import numpy as np
    import numpy.typing as npt
    from tqdm import tqdm

    from pvt_mtl_perception.bags.images import write_image_bag
    from pvt_mtl_perception.inference.files import find_inputs
    from pvt_mtl_perception.inference.image_formats import decode_compressed

    if args.fps <= 0:
        raise ValueError(f"--fps is {args.fps}; it must be above 0")
    if not args.folder.is_dir():
        raise FileNotFoundError(f"no folder {args.folder}")
    pictures = [item.path for item in find_inputs([args.folder]) if not item.is_video]

    def picture(path: Path) -> npt.NDArray[np.uint8]:
        try:
            return decode_compressed(path.suffix.lstrip("."), path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    frames = (
        (START + round(index * 1e9 / args.fps), picture(path))
        for index, path in enumerate(tqdm(pictures, unit="image", dynamic_ncols=True))
    )
    count = write_image_bag(
        args.target, frames, args.topic, frame_id=args.frame_id, codec=args.codec, storage=args.storage
    )
    print(f"{args.target}: {count} images on {args.topic}, {count / args.fps:.1f} s")
    return 0
