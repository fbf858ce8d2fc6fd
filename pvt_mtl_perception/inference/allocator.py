"""Keeps freed memory in the process, so that the next image's buffers need no new pages."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_FREE = 1 << 30
_FROM_HEAP = 256 << 20


def keep_freed_memory() -> bool:
    """For programs that process image after image on the CPU; call it before they allocate.

    As it comes, glibc returns the buffers of an image and of the network's activations to the kernel when
    they are freed, and the next image pays for their pages again: reading a 1080p message takes 13 ms instead
    of 2 ms that way. After this call up to 1 GiB of freed memory stays with the process, and blocks up to
    256 MiB come from it (``mallopt(3)``).

    Returns:
        Whether the C library has taken both settings; others than glibc have none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        [mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE) == 1, mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP) == 1]
    )
