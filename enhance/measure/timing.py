"""CPU and wall time of one frame, in three regimes, and the hardware it was measured on.

*Hot*: frames back to back, everything in the cache. *Cold*: between two frames something else
uses the cache (a buffer is read and written). *Paced*: real time, sleeping between frames, as in a
call; caches cool and the clock frequency drops. The ranking of systems changes with the regime,
so that a figure without its regime misleads.

CPU time is that of the calling thread. A model that also computes on other threads shows in
`FrameTimes.other_threads_ns`, so that it is not taken for a fast one.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from enhance.parallel import cores

CPUINFO = Path("/proc/cpuinfo")
REGIMES = ("hot", "cold", "paced")

Step = Callable[[np.ndarray], Any]
"""Processes one hop of audio (hop,) float32."""


@dataclass
class FrameTimes:
    """Times of single frames, in nanoseconds."""

    cpu_ns: list[int] = field(default_factory=list)
    """CPU time of the calling thread, one entry per frame."""
    wall_ns: list[int] = field(default_factory=list)
    """Elapsed time, one entry per frame."""
    other_threads_ns: int = 0
    """CPU time of the process' other threads during the frames, summed."""
    late_ns: list[int] = field(default_factory=list)
    """Paced only: how late each frame started after its time in the call."""

    def __len__(self) -> int:
        return len(self.wall_ns)

    def extend(self, other: FrameTimes) -> None:
        """Append the frames of another measurement."""
        self.cpu_ns.extend(other.cpu_ns)
        self.wall_ns.extend(other.wall_ns)
        self.late_ns.extend(other.late_ns)
        self.other_threads_ns += other.other_threads_ns

    def summary(self, hop_seconds: float) -> dict[str, Any]:
        """Percentiles in milliseconds, real-time factors and deadline misses.

        A frame whose wall time is longer than its audio, ``hop_seconds``, misses its deadline.
        ``real_time_factor`` is mean CPU time per second of audio; ``late_ms`` there is of paced
        frames alone.
        """
        if not self.wall_ns:
            return {"frames": 0}
        cpu = np.asarray(self.cpu_ns, dtype=np.float64)
        wall = np.asarray(self.wall_ns, dtype=np.float64)
        result: dict[str, Any] = {
            "frames": int(wall.size),
            "cpu_ms": percentiles(cpu / 1e6),
            "wall_ms": percentiles(wall / 1e6),
            "real_time_factor": float(cpu.mean() / 1e9 / hop_seconds),
            "wall_real_time_factor": float(wall.mean() / 1e9 / hop_seconds),
            "deadline_misses": int(np.count_nonzero(wall > hop_seconds * 1e9)),
            "other_threads_share": float(self.other_threads_ns / max(1.0, cpu.sum())),
        }
        if self.late_ns:
            result["late_ms"] = percentiles(np.asarray(self.late_ns) / 1e6)
        return result


def percentiles(values: np.ndarray) -> dict[str, float]:
    """p50, p95, p99, max and mean of one-dimensional values."""
    figures = (*np.percentile(values, (50, 95, 99)), values.max(), values.mean())
    return dict(zip(("p50", "p95", "p99", "max", "mean"), map(float, figures), strict=True))


def _timed(step: Step, frame: np.ndarray, times: FrameTimes) -> None:
    """Run one frame and append its times."""
    process = time.process_time_ns()
    cpu = time.thread_time_ns()
    wall = time.perf_counter_ns()
    step(frame)
    wall_end = time.perf_counter_ns()
    cpu_end = time.thread_time_ns()
    process_end = time.process_time_ns()
    times.wall_ns.append(wall_end - wall)
    times.cpu_ns.append(cpu_end - cpu)
    times.other_threads_ns += max(0, (process_end - process) - (cpu_end - cpu))


def hot(step: Step, frames: Sequence[np.ndarray], warm_up: int = 0) -> FrameTimes:
    """Time frames back to back; the first ``warm_up`` frames run but are not counted."""
    times = FrameTimes()
    for index, frame in enumerate(frames):
        _timed(step, frame, FrameTimes() if index < warm_up else times)
    return times


def cold(step: Step, frames: Sequence[np.ndarray], disturb: Callable[[], Any]) -> FrameTimes:
    """Time frames with ``disturb()`` run, untimed, before each of them."""
    times = FrameTimes()
    for frame in frames:
        disturb()
        _timed(step, frame, times)
    return times


def paced(step: Step, frames: Sequence[np.ndarray], hop_seconds: float) -> FrameTimes:
    """Time frames that arrive in real time, sleeping until each is due.

    A frame that is due while an older one still runs starts at once, as in a call.
    """
    times = FrameTimes()
    start = time.perf_counter_ns()
    for index, frame in enumerate(frames):
        due = start + round((index + 1) * hop_seconds * 1e9)
        while (left := due - time.perf_counter_ns()) > 0:
            time.sleep(left / 1e9)
        times.late_ns.append(time.perf_counter_ns() - due)
        _timed(step, frame, times)
    return times


class CacheDisturber:
    """Something else that uses the cache: reads and writes every line of a buffer.

    That is larger than the core's own caches (a last-level cache that is shared and larger keeps
    the model all the same: say so where it matters).
    """

    def __init__(self, megabytes: int = 64) -> None:
        self.megabytes = megabytes
        self._buffer = np.zeros(megabytes * 1_000_000 // 8, dtype=np.int64)

    def __call__(self) -> None:
        """Touch the whole buffer once."""
        self._buffer += 1


def split_frames(wave: np.ndarray, hop_length: int, count: int) -> list[np.ndarray]:
    """``count`` frames (hop,) of a signal, repeated from its start where it is too short."""
    return list(np.resize(np.asarray(wave, dtype=np.float32), (count, hop_length)))


def instruction_sets() -> list[str]:
    """Vector instruction sets that matter for float and int8 kernels, as far as the system tells.

    Read from ``/proc/cpuinfo`` on Linux and from ``sysctl`` on macOS; empty where neither tells.
    """
    flags: set[str] = set()
    if CPUINFO.exists():
        flags = set(_cpuinfo("flags", "Features").split())
    elif sys.platform == "darwin":
        text = _sysctl("hw.optional") + _sysctl("machdep.cpu.leaf7_features").lower()
        flags = {word for word in ("avx2", "avx512f") if word in text}
        if platform.machine() == "arm64":
            flags |= {"asimd"}
            if "FEAT_DotProd: 1" in text:
                flags |= {"asimddp"}
            if "FEAT_I8MM: 1" in text:
                flags |= {"i8mm"}
    as_they_are = {"avx2", "fma", "avx512_vnni", "avx_vnni", "amx_int8", "neon", "i8mm", "sve"}
    other = {"avx512f": "avx512", "amx_tile": "amx", "asimd": "neon", "asimddp": "dotprod"}
    return sorted((flags & as_they_are) | {other[flag] for flag in flags & set(other)})


def _cpuinfo(*keys: str) -> str:
    """The first entry under one of these keys; empty where the system has no such file."""
    lines = CPUINFO.read_text("utf-8", "replace").splitlines() if CPUINFO.exists() else []
    rows = (line.partition(":") for line in lines)
    return next((v.strip() for key, _, v in rows if key.strip() in keys and v.strip()), "")


def _sysctl(name: str) -> str:
    import subprocess

    try:
        done = subprocess.run(["sysctl", name], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def processor_name() -> str:
    """Name of the processor as the system gives it."""
    name = _cpuinfo("model name", "Model", "Hardware")
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string").partition(":")[2].strip()
    return name or platform.processor() or platform.machine() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Of those of the packages that are installed, and of ``python``."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = platform.python_version() if name == "python" else version(name)
    return found


def hardware() -> dict[str, Any]:
    """What a speed figure needs beside it.

    ``cores`` are those available to this process, ``load_average`` is over 1 min (None where
    unknown), ``cpu_clock_ns`` the resolution of the CPU clock.
    """
    load = getattr(os, "getloadavg", None)
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "instruction_sets": instruction_sets(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(load()[0], 2) if load else None,
        "cpu_clock_ns": time.get_clock_info("thread_time").resolution * 1e9,
        "versions": versions("python", "enhance", "numpy", "onnxruntime"),
    }
