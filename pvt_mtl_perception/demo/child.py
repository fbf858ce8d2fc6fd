"""``python -m pvt_mtl_perception.demo.child PID MODULE …`` is ``python -m MODULE …`` that ends when PID does.

Otherwise a killed demonstration would leave a node behind that nobody knows of.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; it survives exec."""


def end_with_parent(parent: int) -> None:
    """Has Linux send this process a SIGTERM when its parent ends in whatever way.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
