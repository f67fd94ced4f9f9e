"""`enhance bench` on two tiny graphs of known relative cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency import bench as latency
from benchmarks.latency import cold_start
from benchmarks.latency.bench import bench
from benchmarks.latency.tables import latency_tables
from benchmarks.pages.report import write_report
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.measure.timing import CacheDisturber

ModelMaker = Callable[..., Path]


def test_bench_of_two_models(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "CacheDisturber", lambda: CacheDisturber(2))
    small, large = make_model("small", width=8), make_model("large", width=2000)
    out = tmp_path / "out"
    found = bench([str(small), str(large)], 0.3, out, repeats=1, quiet=True)
    first, second = found.models
    assert [row["model"] for row in found.models] == ["small", "large"]
    for row in found.models:
        assert set(row["regimes"]) == {"hot", "cold", "paced"}
        for entry in row["regimes"].values():
            times = entry["cpu_ms"]
            assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
            assert entry["frames"] >= 5
        start = row["cold_start"]
        assert start["total_ms"] >= start["onnxruntime_ms"] + start["session_ms"]
        assert start["resident_mb"] > 15  # an interpreter with numpy
        assert row["file_bytes"] == Path(row["path"]).stat().st_size
        assert row["algorithmic_latency_ms"] == 20
    assert first["parameters"] == 1 + 320 * 8 + 8 * 8
    assert first["ratio"]["hot"]["mean"] == 1
    # 4.6 M multiplications against 2,600: the large one is slower on any machine.
    assert second["ratio"]["hot"]["mean"] > 3
    assert second["ratio"]["hot"]["low"] > 2
    rows = read_jsonl(out / "results.jsonl")
    assert [row["run"] for row in rows] == [first["run"]] * 2
    report = write_report(out).read_text()
    assert found.hardware["processor"] in report
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    cpu, wall, start, size = latency_tables(rows)
    assert [row[:2] for row in cpu.rows[:3]] == [["small", r] for r in ("hot", "cold", "paced")]
    assert (len(cpu.rows), len(wall.rows), len(start.rows), len(size.rows)) == (6, 6, 2, 2)
    ratio = large.stat().st_size / small.stat().st_size
    assert size.rows[1][3].endswith(f"(x{ratio:.2f})")


def test_another_system_has_its_turns(make_model: ModelMaker) -> None:
    # A model of ours is such a stream as well: audio and states in, audio and states out.
    model = make_model("mine", width=1500)
    peer = str(make_model("other", width=1500))
    found = bench([model], 0.3, regimes=["hot"], repeats=1, quiet=True, peers=[f"{peer}@20"])
    mine, other = found.models
    assert (other["model"], other["hop_ms"]) == ("other", 20)
    assert 0.3 < other["ratio"]["hot"]["mean"] < 3
    assert other["cold_start"]["total_ms"] is None
    assert latency_tables(found.models)[2].rows[1][1] == "-"
    assert mine["first"] == other["first"] == "mine"


@pytest.mark.parametrize("hop", ["", "@", "@x", "@nan", "@inf", "@0", "@-16"])
def test_a_peer_has_a_hop(hop: str, make_model: ModelMaker) -> None:
    with pytest.raises(EnhanceError, match=r"write FILE@MS"):
        bench(["small"], peers=[f"{make_model('small', width=8)}{hop}"])


def test_what_is_no_stream_is_no_peer(tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx").helper
    path = tmp_path / "peer.onnx"
    for kind, shapes, message in (
        (1, [(1, 8), (1, 4)], r"not the states that it takes"),
        (1, [(1, "frames"), (1, 4)], r"input 'a0' is tensor\(float\) of \[1, 'frames'\]"),
        (11, [(1, 8), (1, 4)], r"input 'a0' is tensor\(double\) of \[1, 8\]"),
    ):
        values = [
            [helper.make_tensor_value_info(f"{end}{i}", kind, s) for i, s in enumerate(shapes)]
            for end in ("a", "b")
        ]
        # The states come back in another order.
        nodes = [helper.make_node("Identity", [f"a{i}"], [f"b{i}"]) for i in range(2)]
        graph = helper.make_graph(nodes, "g", values[0], values[1][::-1])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(EnhanceError, match=message):
            bench(["small"], peers=[f"{path}@16"])


def test_ratios_are_per_second_of_audio(make_model: ModelMaker) -> None:
    # The same work per frame, for a frame of half the length: twice the cost.
    long, short = make_model("long", width=1500), make_model("short", width=1500, hop=160)
    found = bench([str(long), str(short)], 0.4, regimes=["hot"], repeats=1, quiet=True)
    frames = [row["regimes"]["hot"]["cpu_ms"]["p50"] for row in found.models]
    expected = 2 * frames[1] / frames[0]
    assert found.models[1]["ratio"]["hot"]["mean"] == pytest.approx(expected, rel=1e-9)
    assert set(found.models[0]["regimes"]) == {"hot"}
    assert found.folder is None


def test_turns_are_shared_fairly(make_model: ModelMaker) -> None:
    subjects = latency._open([make_model("a"), make_model("b"), make_model("a")])
    assert [subject.name for subject in subjects] == ["a", "b", "a#2"]
    latency._rounds(subjects, "hot", 0.02, CacheDisturber(1))
    counts = [len(subject.times["hot"]) for subject in subjects]
    assert len(set(counts)) == 1
    assert counts[0] % latency.BLOCK == 0


def test_audio_is_fed_hop_by_hop(make_model: ModelMaker) -> None:
    (subject,) = latency._open([make_model()])
    noise = (0.05 * np.random.default_rng(0).standard_normal(64000)).astype(np.float32)
    fed = subject.take(201)
    assert all(frame.shape == (320,) for frame in fed)
    assert np.array_equal(np.concatenate(fed[:200]), noise)
    assert fed[200] is fed[0]  # round and round


def test_misses_and_hidden_threads_are_told(make_model: ModelMaker) -> None:
    (subject,) = latency._open([make_model()])
    subject.times["hot"] = latency.FrameTimes([10**6] * 9, [10**6] * 8 + [10**8], 9 * 10**6)
    row = latency._row(subject, subject, {})
    assert row["regimes"]["hot"]["deadline_misses"] == 1
    assert any("1 of 9 frames" in line for line in row["warnings"])
    assert any("100% more CPU time" in line for line in row["warnings"])
    subject.enhancer.metadata["parameters"] = "inf"  # of a foreign file: no number of anything
    assert latency._row(subject, subject, {})["parameters"] is None


def test_a_fresh_process_that_fails_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_text("not a model")
    with pytest.raises(EnhanceError, match="fresh process"):
        cold_start.measure(broken, 1)


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cold_start, "measure", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(EnhanceError, match=r"results\.jsonl: cannot be written"):
        bench([str(make_model("m"))], 0.1, tmp_path / "file" / "out", quiet=True)


def test_misuse(make_model: ModelMaker) -> None:
    model = str(make_model())
    with pytest.raises(EnhanceError, match="no model"):
        bench([])
    with pytest.raises(EnhanceError, match="positive"):
        bench([model], 0)
    with pytest.raises(EnhanceError, match="choose from hot, cold, paced"):
        bench([model], regimes=["warm"])
    with pytest.raises(EnhanceError, match="no such model"):
        bench(["absent.onnx"])
