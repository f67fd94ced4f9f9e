"""What a model costs a process that has just started: run as
``python -m benchmarks.latency.cold_start``.

A process of its own, because imports happen once: the time of each import, of opening the model,
of the first frames, and the memory that is resident after them.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from enhance.errors import EnhanceError

FRAMES = 20
"""Frames run before memory is read."""

NOTHING: dict[str, Any] = dict.fromkeys(
    ("total_ms", "session_ms", "first_frame_ms", "second_frame_ms", "resident_mb")
)
"""In place of figures, where none were taken."""


def measure(path: Path | str, repeats: int = 3) -> dict[str, Any]:
    """Start a fresh process several times with an ONNX file, or weights for plain C, which leave
    ONNX Runtime out.

    Files are in the page cache from the second time on, so that this is a warm disk and a cold
    process.

    Returns
    -------
    dict
        Medians: ``numpy_ms``, ``onnxruntime_ms``, ``enhance_ms`` (imports, in this order),
        ``session_ms`` (opening the model), ``total_ms`` (all of these), ``first_frame_ms``,
        ``second_frame_ms`` (wall times), ``resident_mb`` (10^6 bytes); and ``repeats``.

    Raises
    ------
    EnhanceError
        If the process fails.
    """
    import numpy as np

    root = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (root, environment.get("PYTHONPATH", "")) if part
    )
    found = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.latency.cold_start", str(path)],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EnhanceError(f"{path}: a fresh process could not run it ({why})")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    result = {key: float(np.median([row[key] for row in found])) for key in found[0]}
    return {**result, "repeats": repeats}


def resident_bytes() -> int:
    """Memory of this process that is resident now (its peak where the system tells only that)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _main(path: str) -> None:
    marks = [time.perf_counter()]
    import numpy as np

    marks.append(time.perf_counter())
    native = path.endswith(".bin")
    if not native:
        import onnxruntime  # noqa: F401 - its import is what is timed

    marks.append(time.perf_counter())
    from enhance.device.enhancer import Enhancer

    marks.append(time.perf_counter())
    enhancer = Enhancer(path, num_threads=1, engine="native" if native else "onnx")
    marks.append(time.perf_counter())
    noise = np.random.default_rng(0).standard_normal(enhancer.hop_length).astype(np.float32) * 0.1
    for _ in range(FRAMES):
        enhancer.process(noise)
        marks.append(time.perf_counter())
    steps = [1000 * (b - a) for a, b in itertools.pairwise(marks)]
    row = dict(zip(("numpy_ms", "onnxruntime_ms", "enhance_ms", "session_ms"), steps, strict=False))
    row["total_ms"] = sum(steps[:4])
    row["first_frame_ms"], row["second_frame_ms"] = steps[4], steps[5]
    row["resident_mb"] = resident_bytes() / 1e6
    print(json.dumps(row))


if __name__ == "__main__":
    _main(sys.argv[1])
