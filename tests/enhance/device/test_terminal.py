"""What `enhance live` shows."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import build

from enhance.cli.streams import stream
from enhance.device.enhancer import Enhancer
from enhance.device.live import Live
from enhance.device.terminal import level, meter, pressed
from enhance.errors import EnhanceError


def test_meters(tmp_path: Path) -> None:
    time_ = np.arange(16000) / 16000
    assert level(np.sin(2 * np.pi * 100 * time_)) == pytest.approx(-3.01, abs=0.01)
    assert level(np.zeros(5)) == level(np.zeros(0)) == -120
    assert [meter(v, 4) for v in (0, -15, -30, -60, -120, 6)] == [
        "[####]", "[### ]", "[##  ]", "[    ]", "[    ]", "[####]",
    ]  # fmt: skip
    live = Live(Enhancer(build(tmp_path / "m.onnx")), 16000)
    live.process(0.1 * np.ones((512, 1), np.float32))
    text = live.picture(0.1234)
    assert text.startswith("in [###########     ]  -20 dB  out [")
    assert text.endswith("strength 100%  delay 123 ms  underruns 0  lost 0")
    live.key("b")
    assert "bypass" in live.picture(0)


def test_raw_samples_do_not_come_from_a_terminal_or_from_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe, terminal = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    for ends, told in [
        ((None, pipe), "standard input is closed"),
        ((pipe, None), "standard output is closed"),
        ((terminal, pipe), "standard input is a terminal"),
        ((pipe, terminal), "standard output is a terminal"),
    ]:
        monkeypatch.setattr(sys, "stdin", ends[0])
        monkeypatch.setattr(sys, "stdout", ends[1])
        with pytest.raises(EnhanceError, match=told):
            stream(rate=16000)


BACKGROUND = """
import os, signal, sys
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    from enhance.device.terminal import pressed
    with pressed() as keys:
        os._exit(7 if keys() == "" else 8)
_, status = os.waitpid(child, os.WUNTRACED)
if os.WIFSTOPPED(status):
    os.kill(child, signal.SIGKILL)
print("exit", os.WEXITSTATUS(status) if os.WIFEXITED(status) else "stopped")
"""


def test_a_job_in_the_background_is_not_stopped() -> None:
    pytest.importorskip("pty")  # of POSIX
    spawn = "import pty, sys; pty.spawn(sys.argv[1:])"
    python = [sys.executable, "-c"]
    done = subprocess.run(
        [*python, spawn, *python, BACKGROUND], stdin=subprocess.DEVNULL, capture_output=True
    )
    assert done.stdout.split() == [b"exit", b"7"], done


def test_no_keys_where_the_system_has_no_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "termios", None)  # as on Windows
    with pressed() as keys:
        assert keys() == ""
