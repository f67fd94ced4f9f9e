"""Sound devices and servers that go away, or hang: the rest goes on, or says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import build
from tiny_sound import RATE, Devices, noise, quit_after, use

from enhance.device.enhancer import Enhancer
from enhance.device.live import device_list, measure_delay, run_live
from enhance.errors import EnhanceError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("m") / "m.onnx", gain=0.5, hop=256, overlap=256)


@pytest.mark.parametrize("reads", [0, 40])
def test_a_device_that_goes_away_is_told_in_seconds(
    monkeypatch: pytest.MonkeyPatch, model: Path, reads: int
) -> None:
    monkeypatch.setattr("enhance.device.sound_thread.DEAF", 1.0)
    monkeypatch.setattr("enhance.device.sound_thread._LEAVE", 0.2)
    for run in (run_live, measure_delay):
        devices = use(monkeypatch, Devices(noise(RATE)))
        devices.gone_after = reads
        begun = time.monotonic()
        with pytest.raises(EnhanceError, match="the input gave no sound for 1 s"):
            run(Enhancer(model))
        assert time.monotonic() - begun < 20
        assert devices.reads == reads


def test_an_error_is_told_where_nothing_can_be_closed(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setattr("enhance.device.sound_thread._LEAVE", 0.2)
    devices = use(monkeypatch, Devices(noise(RATE)))
    monkeypatch.setattr(devices, "abort", lambda: time.sleep(60))
    quit_after(monkeypatch, devices, 20)
    begun = time.monotonic()
    assert run_live(Enhancer(model)).overruns == 0

    def broken(block: np.ndarray) -> bool:
        raise devices.PortAudioError("Unanticipated host error")

    monkeypatch.setattr(devices, "_write", broken)
    with pytest.raises(EnhanceError, match="sound device: Unanticipated host error; see"):
        run_live(Enhancer(model))
    assert time.monotonic() - begun < 20


def test_a_sound_system_that_gives_no_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("enhance.device.sound_thread._ASKED", 0.3)

    def hang() -> None:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)  # as sounddevice while PortAudio begins
        os.close(silent)
        time.sleep(60)

    monkeypatch.setattr(use(monkeypatch, Devices()), "query_devices", hang)
    with pytest.raises(EnhanceError, match="the sound system gave no answer"):
        device_list()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
