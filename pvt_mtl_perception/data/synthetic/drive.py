"""A drive: one world seen from a moving camera, frame by frame."""

from __future__ import annotations

from pvt_mtl_perception.data.sample import Sample
from pvt_mtl_perception.data.synthetic.dice import Dice
from pvt_mtl_perception.data.synthetic.frame import (
    Rendered,
    check_size,
    draw_conditions,
    draw_viewpoint,
    render,
    split_key,
)
from pvt_mtl_perception.data.synthetic.lighting import make_light
from pvt_mtl_perception.data.synthetic.world import Split, World


class Drive:
    """A sequence of frames along one road with traffic; any frame can be rendered directly.

    Weather, scene, time of day, camera and the look of everything stay the same during the drive.

    Args:
        seed: any integer >= 0.
        width, height: pixels, at least 64 x 48.
        fps: frames per second of the recording.
        split: "train" or "test", as for ``render_frame``.

    Raises:
        ValueError: for a negative seed, an unknown split, a frame rate <= 0 or a size below 64 x 48.
    """

    def __init__(
        self, seed: int, width: int = 1280, height: int = 720, fps: float = 10.0, split: Split = "test"
    ) -> None:
        check_size(width, height)
        if seed < 0:
            raise ValueError(f"seed is {seed}; it is an integer >= 0")
        if not fps > 0:
            raise ValueError(f"fps is {fps}; it is a number > 0")
        self.seed, self.width, self.height, self.fps, self.split = seed, width, height, fps, split
        self._key = (split_key(split), seed, 20)
        dice = Dice(*self._key)
        self.conditions = draw_conditions(dice)
        self.view = draw_viewpoint(dice)
        self.light = make_light(self.conditions, dice)
        self.world = World(seed, split, self.conditions.scene)

    def render(self, index: int) -> Rendered:
        """Frame ``index`` (>= 0) with the id image and instance records."""
        if index < 0:
            raise ValueError(f"frame index is {index}; it is an integer >= 0")
        t = index / self.fps
        name = f"synthetic/{self.split}/drive {self.seed}/{index}"
        return render(
            self.world, self.conditions, self.light, self.view, t, self.width, self.height,
            (*self._key, 8), (*self._key, 9, index), name,
        )  # fmt: skip

    def frame(self, index: int) -> Sample:
        """Frame ``index`` (>= 0), at ``index / fps`` seconds."""
        return self.render(index).sample
