"""Frame times measured on steps whose cost is known."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from enhance.measure import timing
from enhance.measure.timing import (
    CacheDisturber,
    FrameTimes,
    cold,
    hardware,
    hot,
    paced,
    split_frames,
    versions,
)

FRAMES = [np.zeros(320, np.float32)] * 12


def burn(milliseconds: float) -> None:
    """Use the processor for a given CPU time of this thread."""
    end = time.thread_time_ns() + milliseconds * 1e6
    while time.thread_time_ns() < end:
        pass


def test_cpu_time_is_the_work_done() -> None:
    times = hot(lambda _: burn(3), FRAMES, warm_up=2)
    assert len(times) == 10
    cpu = np.array(times.cpu_ns) / 1e6
    assert cpu.min() >= 3
    assert np.median(cpu) == pytest.approx(3, abs=0.3)  # the loop ends within one clock reading
    # Two clocks, of which a busy system moves one in ticks.
    assert (np.array(times.wall_ns) >= 0.9 * np.array(times.cpu_ns)).all()


def test_sleep_is_wall_time_only() -> None:
    summary = hot(lambda _: time.sleep(0.004), FRAMES).summary(0.02)
    assert summary["wall_ms"]["p50"] >= 4
    assert summary["cpu_ms"]["p50"] < 1
    assert summary["wall_real_time_factor"] >= 0.2


def test_work_on_other_threads_is_seen() -> None:
    def step(_: np.ndarray) -> None:
        helper = threading.Thread(target=burn, args=(3,))
        helper.start()
        helper.join()

    summary = hot(step, FRAMES[:5]).summary(0.02)
    assert summary["cpu_ms"]["p50"] < 2
    assert summary["other_threads_share"] > 1


def test_cold_disturbs_before_every_frame_and_does_not_count_it() -> None:
    order: list[str] = []

    def disturb() -> None:
        order.append("disturb")
        time.sleep(0.01)

    times = cold(lambda _: order.append("step"), FRAMES[:3], disturb)
    assert order == ["disturb", "step"] * 3
    assert np.median(times.wall_ns) < 5e6


def test_paced_takes_the_time_of_the_audio() -> None:
    seen = []
    start = time.perf_counter()
    times = paced(lambda frame: seen.append(frame[0]), split_frames(np.arange(8), 1, 8), 0.01)
    elapsed = time.perf_counter() - start
    assert elapsed >= 0.08
    assert seen == list(range(8))
    assert len(times.late_ns) == len(times) == 8
    assert min(times.late_ns) >= 0


def test_paced_frame_that_is_overdue_starts_at_once() -> None:
    costs = iter([0.05, 0, 0, 0])
    times = paced(lambda _: time.sleep(next(costs)), FRAMES[:4], 0.01)
    assert times.late_ns[1] >= 38e6  # due at 20 ms, the first ends after 10 + 50
    assert times.summary(0.01)["late_ms"]["max"] >= 38


def test_summary_of_known_times() -> None:
    times = FrameTimes(cpu_ns=[1_000_000] * 99 + [50_000_000], wall_ns=[2_000_000] * 98
                       + [30_000_000, 60_000_000])  # fmt: skip
    summary = times.summary(0.02)
    assert summary["frames"] == 100
    assert summary["cpu_ms"]["p50"] == 1
    assert summary["cpu_ms"]["max"] == 50
    assert summary["cpu_ms"]["p99"] == pytest.approx(np.percentile([1] * 99 + [50], 99))
    assert summary["deadline_misses"] == 2
    assert summary["real_time_factor"] == pytest.approx((99 + 50) / 100 / 20)
    assert summary["wall_real_time_factor"] == pytest.approx((98 * 2 + 90) / 100 / 20)
    assert FrameTimes().summary(0.02) == {"frames": 0}


def test_extend_appends_everything() -> None:
    times = FrameTimes([1], [2], 3, [4])
    times.extend(FrameTimes([5], [6], 7, [8]))
    assert times == FrameTimes([1, 5], [2, 6], 10, [4, 8])


def test_disturber_touches_every_cache_line() -> None:
    disturb = CacheDisturber(1)
    disturb()
    disturb()
    assert disturb._buffer.nbytes == 1_000_000
    assert (disturb._buffer == 2).all()


def test_split_frames_repeats_a_short_signal() -> None:
    frames = split_frames(np.arange(5, dtype=np.float32), 2, 4)
    assert np.concatenate(frames).tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


CPUINFO = {
    "x86": (
        "model name\t: Intel(R) Xeon(R) Processor\nflags\t\t: sse fma avx2 avx512f avx512_vnni\n",
        ("Intel(R) Xeon(R) Processor", ["avx2", "avx512", "avx512_vnni", "fma"]),
    ),
    "arm": (
        "Model\t: Some Board\nFeatures\t: fp asimd asimddp i8mm\n",
        ("Some Board", ["dotprod", "i8mm", "neon"]),
    ),
}


@pytest.mark.parametrize("kind", CPUINFO)
def test_processor_is_read_from_the_system(
    kind: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, expected = CPUINFO[kind]
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(timing, "CPUINFO", tmp_path / "cpuinfo")
    assert (timing.processor_name(), timing.instruction_sets()) == expected


def test_hardware_names_what_a_figure_needs() -> None:
    found = hardware()
    assert found["processor"]
    assert found["cores"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    assert list(versions("numpy", "no-such-package")) == ["numpy"]
    assert 0 < found["cpu_clock_ns"] < 1e6  # a clock of 1 ms or worse could not time a frame
