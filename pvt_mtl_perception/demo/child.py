"""``python -m pvt_mtl_perception.demo.child MODULE …`` is ``python -m MODULE …`` that ends with its parent.

Otherwise a killed demonstration would leave a node behind that nobody knows of.
"""

from __future__ import annotations

import ctypes
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; it survives exec."""

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
