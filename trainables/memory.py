"""Keeps freed memory in the process: PyTorch on a CPU otherwise asks the kernel for it at every layer."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them; does nothing elsewhere.

    A forward pass frees and takes hundreds of megabytes. Fetching zeroed pages for them can cost as
    much time as the arithmetic. The process keeps its largest size for as long as it lives.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)
