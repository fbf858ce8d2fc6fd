"""``python -m pvt_mtl_perception.cli`` is ``pvt-mtl``."""

from __future__ import annotations

import sys

from pvt_mtl_perception.cli import main

if __name__ == "__main__":
    sys.exit(main())
