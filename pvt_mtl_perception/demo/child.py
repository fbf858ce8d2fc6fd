"""``python -m pvt_mtl_perception.demo.child PID MODULE …`` is ``python -m MODULE …`` that ends when PID does.

Otherwise a killed demonstration would leave a node behind that nobody knows of.
"""

from __future__ import annotations

import runpy
import sys

from pvt_mtl_perception.inference.process import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
