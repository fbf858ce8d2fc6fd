"""Makes test/data/street.mcap, small JPEG frames of a rendered drive, and what the shipped model sees there.

``python scripts/make_test_bag.py``; with ``--results`` only test/data/street.jsonl is written again, which a
new shipped checkpoint needs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from pvt_mtl_perception.bags.images import write_image_bag
from pvt_mtl_perception.bags.reader import BagReader
from pvt_mtl_perception.data.synthetic import Drive
from pvt_mtl_perception.inference.files import result_record
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.paths import shipped_checkpoint

TARGET = Path(__file__).resolve().parents[1] / "test" / "data" / "street.mcap"
RESULTS = TARGET.with_suffix(".jsonl")
SEED, WIDTH, HEIGHT, FPS, FRAMES = 3, 320, 192, 5.0, 12
TOPIC = "/street/image/compressed"
START = 1_700_000_000 * 10**9


def write_bag() -> None:
    """Renders and writes the bag, replacing the one that is there."""
    drive = Drive(SEED, WIDTH, HEIGHT, FPS)
    frames = ((START + round(i * 1e9 / FPS), drive.frame(i).image) for i in range(FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "street"
        write_image_bag(bag, frames, TOPIC, frame_id="street_optical", codec="jpeg", quality=80)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bag / "street.mcap", TARGET)
    print(f"{TARGET}: {FRAMES} frames, {TARGET.stat().st_size / 1e3:.0f} kB")


def write_results() -> None:
    """What the shipped checkpoint gives for every third frame, by PyTorch in fp32 on the CPU."""
    predictor = Predictor(shipped_checkpoint(), device="cpu")
    with BagReader(TARGET) as reader:
        images = list(reader.images(reader.select()))[::3]
    records = [
        {"stamp": image.stamp, **result_record(predictor.predict([image.decode()])[0], predictor.labels)}
        for image in images
    ]
    RESULTS.write_text("".join(json.dumps(record) + "\n" for record in records))
    print(f"{RESULTS}: {len(records)} frames, {sum(len(r['detections']) for r in records)} boxes")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", action="store_true", help="leave the bag as it is")
    if not parser.parse_args().results:
        write_bag()
    write_results()


if __name__ == "__main__":
    main()
