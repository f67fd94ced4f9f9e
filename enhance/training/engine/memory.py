"""The heap of a training on a CPU: kept from step to step, in huge pages.

Every step allocates and frees the same large tensors. The C library would take each from the
system and give it back: some 60,000 page faults a step, an eighth of its time. Once kept, the heap
is as large as the largest step; in huge pages of 2 MB it needs few entries of the processor's
table of addresses, which is worth as much of the network's time again.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt, <malloc.h>
_HUGE = 14  # MADV_HUGEPAGE, <sys/mman.h>
_RESERVED = 1 << 31  # bytes of addresses; memory only as far as tensors need it
_PAD = 1 << 26  # bytes by which the heap grows behind those


@functools.cache
def keep_heap() -> bool:
    """Keep this process's memory from now on; says whether it could be asked for.

    Only with glibc on Linux: elsewhere nothing changes.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    kept = libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_TOP_PAD, _PAD)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(_RESERVED)  # from the end of the heap, where it comes back to
    if start:
        page = -(-start // 4096) * 4096
        libc.madvise(page, _RESERVED - 4096, _HUGE)  # a request: without huge pages small ones do
        libc.free(start)
    return bool(kept)
