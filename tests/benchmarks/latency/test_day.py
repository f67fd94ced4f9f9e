"""Hours through one stream, shortened: what the record must show of a model that is well."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_onnx import build

from benchmarks.latency import day
from enhance.device.engine import Choice
from enhance.errors import EnhanceError


def test_a_model_that_is_well(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", pole=0.5, hop=320)
    found = day.live_through(path, 12 / 3600, part_seconds=1.0, quiet=True)
    assert found["frames"] == pytest.approx(12 * 50, abs=2)  # 320 samples at 16 kHz
    assert len(found["si_sdr"]) == len(found["resident_mb"]) == 2  # before and after
    assert found["si_sdr"][1] == pytest.approx(found["si_sdr"][0], abs=1e-4)
    assert found["reset_equal"]
    assert set(found["cpu_us"]) >= {"noise", "silence", "speech", "fade", "subnormal"}
    assert all(len(times) == 1 and times[0] > 0 for times in found["cpu_us"].values())
    assert 0.01 < found["peak"] < 1
    assert found["subnormal"] == 0


def test_a_model_that_goes_wrong_is_told(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx", pole=1.5, hop=16)  # adds up without bound
    with pytest.raises(EnhanceError, match="gave NaN or infinity"):
        day.live_through(path, 6 / 3600, part_seconds=1.0, quiet=True)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("m.onnx", ["--part-seconds", "0"], "24 hours in parts of 0 s"),
        ("m.onnx", ["--part-seconds", "9000"], "give hours, parts of at most 3600 s"),
        ("m.onnx", ["--part-seconds", "0.01"], "parts of 0.01 s: shorter than a frame"),
        ("m.onnx", ["--hours", "nan"], "nan hours"),
        ("none.onnx", [], "none.onnx"),
    ],
)
def test_what_cannot_be_lived_through_is_one_line(
    model: str,
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build(tmp_path / "m.onnx", pole=0.5, hop=320)
    asked = ["day", str(tmp_path / model), "-o", str(tmp_path / "day.json"), *options]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit) as caught:
        day._main()
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in told and told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "native"])
@pytest.mark.parametrize("name", ["small", "default"])
def test_a_day(name: str, engine: Choice) -> None:
    found = day.live_through(name, 24, engine=engine, quiet=True)
    assert found["engine"] == engine
    fresh, *later = found["si_sdr"]
    assert max(later) - min(later) < 0.2  # the first hour as the last
    assert max(abs(x - fresh) for x in later) < 1  # what was heard before is part of the state
    assert found["slowest"] < 1.3 and found["reset_equal"] and found["peak"] < 4
    assert max(found["resident_mb"][2:]) - found["resident_mb"][1] < 10


def test_a_place_that_cannot_be_written_is_told_before_the_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(day, "live_through", lambda **_: pytest.fail("hours went by"))
    monkeypatch.setattr("sys.argv", ["day", "small", "-o", str(tmp_path / "file" / "day.json")])
    with pytest.raises(SystemExit) as caught:
        day._main()
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert "day.json: cannot be written" in told and told.count("\n") == 1
