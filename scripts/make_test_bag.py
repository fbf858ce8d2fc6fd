"""Makes test/data/street.mcap: a few small JPEG frames of a rendered drive, for tests that play a bag."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pvt_mtl_perception.bags.images import write_image_bag
from pvt_mtl_perception.data.synthetic import Drive

TARGET = Path(__file__).resolve().parents[1] / "test" / "data" / "street.mcap"
SEED, WIDTH, HEIGHT, FPS, FRAMES = 3, 320, 192, 5.0, 12
TOPIC = "/street/image/compressed"
START = 1_700_000_000 * 10**9


def main() -> None:
    """Renders and writes the bag, replacing the one that is there."""
    drive = Drive(SEED, WIDTH, HEIGHT, FPS)
    frames = ((START + round(i * 1e9 / FPS), drive.frame(i).image) for i in range(FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "street"
        write_image_bag(bag, frames, TOPIC, frame_id="street_optical", codec="jpeg", quality=80)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bag / "street.mcap", TARGET)
    print(f"{TARGET}: {FRAMES} frames, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
