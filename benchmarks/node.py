"""The running node beside the bare predictor: ``python benchmarks/node.py --help``."""

from __future__ import annotations

from pvt_mtl_perception.ros.benchmark import main

if __name__ == "__main__":
    main()
