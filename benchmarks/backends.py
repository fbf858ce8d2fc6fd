"""Every backend at 640x384, in turn and in one run: ``python benchmarks/backends.py --help``.

``pvt-mtl bench`` with the sizes of the figures in docs/performance.md; its other arguments go through.
"""

from __future__ import annotations

import sys

from pvt_mtl_perception.cli import main

if __name__ == "__main__":
    case = ["--input", "640x384", "--source", "640x384", "--batch", "1", "--each-task"]
    raise SystemExit(main(["bench", *case, *sys.argv[1:]]))
