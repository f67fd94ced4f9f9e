"""The heap of a training stays."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from enhance.training.engine.memory import keep_heap
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        rows = [np.ones(1 << 20) for _ in range(4)]  # 8 MB each
        del rows
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before, kept = faults(), keep_heap()
faults()  # touches the heap for the first time
print(before, int(kept), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is glibc's")
def test_large_arrays_come_from_memory_that_was_touched_before() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept
    assert after < before / 10
