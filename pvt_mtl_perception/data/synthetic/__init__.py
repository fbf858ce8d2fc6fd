"""Synthetic driving scenes: labelled street frames from a seed, single or as drives."""

from __future__ import annotations

from pvt_mtl_perception.data.synthetic.drive import Drive
from pvt_mtl_perception.data.synthetic.frame import render_frame

__all__ = ["Drive", "render_frame"]
