"""DNSMOS as the package computes it, and DistillMOS by its package."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, MetricRefusal, measure
from enhance.measure.opinions import DISTILLMOS, DNSMOS, distillmos, dnsmos

RATE = 16000


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package's own module; librosa, which only its P.808 figure needs, may be absent."""
    pytest.importorskip("speechmos")
    absent = SimpleNamespace(
        feature=SimpleNamespace(melspectrogram=lambda **_: np.zeros((120, 900))),
        power_to_db=lambda mel, ref: mel,
    )
    monkeypatch.setitem(sys.modules, "librosa", absent)
    monkeypatch.setitem(sys.modules, "requests", SimpleNamespace(session=None))
    from speechmos import dnsmos as module

    return module


@pytest.mark.parametrize("seconds", [2.5, 4.0, 10.7])
def test_figures_are_those_of_the_package(package: ModuleType, seconds: float) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    wave = 0.1 * buzz * np.clip(np.sin(9 * t), 0, 1) + 0.01 * rng.standard_normal(t.size)
    theirs = package.run(wave.astype(np.float32), RATE)
    ours = dnsmos(wave)
    assert list(ours) == list(DNSMOS)
    for name, key in zip(DNSMOS, ("ovrl_mos", "sig_mos", "bak_mos"), strict=True):
        assert ours[name] == pytest.approx(float(theirs[key]), abs=1e-5)


def test_a_long_clip_is_heard_whole(package: ModuleType) -> None:
    """The package loses the segments that begin at 7 to 23 s: 16.01 * 16000 is 256159.99..."""
    rng = np.random.default_rng(1)
    wave = rng.standard_normal(17 * RATE) * np.linspace(0.001, 0.1, 17 * RATE)
    wave = wave.astype(np.float32).clip(-1, 1)
    theirs, ours = float(package.run(wave, RATE)["bak_mos"]), dnsmos(wave)["dnsmos_bak"]
    assert theirs == pytest.approx(dnsmos(wave[: 16 * RATE])["dnsmos_bak"], abs=1e-5)
    segments = [wave[s * RATE :][: int(9.01 * RATE)] for s in range(8)]
    alone = [dnsmos(segment)["dnsmos_bak"] for segment in segments]
    assert ours == pytest.approx(np.mean(alone), abs=1e-5)
    assert abs(ours - theirs) > 1e-3


def test_measured_beside_the_others() -> None:
    pytest.importorskip("speechmos")
    wave = 0.1 * np.sin(np.arange(RATE))
    found = measure(wave, 40 * wave, metrics=("si_sdr", *DNSMOS))
    assert list(found) == ["si_sdr", *DNSMOS]
    assert found["dnsmos_ovrl"] == dnsmos(np.clip(40 * wave, -1, 1))["dnsmos_ovrl"]
    silent = measure(wave, np.zeros(RATE), metrics=DNSMOS)  # no reference is needed: it is heard
    assert all(1 <= silent[name] <= 5 for name in DNSMOS)
    nothing = measure([], [], metrics=(*METRICS, *DNSMOS))
    assert {found.reason for found in nothing.values()} == {"the clip has no samples"}
    broken = wave.copy()
    broken[3] = np.nan
    refused = measure(wave, broken, metrics=DNSMOS)
    assert all(isinstance(refused[name], MetricRefusal) for name in DNSMOS)
    with pytest.raises(EnhanceError, match="8000 Hz"):
        dnsmos(wave, 8000)


def test_distillmos_hears_noise_and_says_nothing_of_its_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("xls_r_sqa")
    rng = np.random.default_rng(0)
    t = np.arange(9 * RATE) / RATE  # longer than one window
    voice = 0.1 * sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    voice = voice * np.clip(np.sin(9 * t), 0, 1)
    quiet, loud = (distillmos(voice + a * rng.standard_normal(t.size)) for a in (0.001, 0.2))
    assert 1 < loud < quiet < 5
    assert capsys.readouterr() == ("", "")
    found = measure(voice, voice, metrics=(DISTILLMOS, "si_sdr"))
    assert found[DISTILLMOS] == distillmos(voice)
    assert isinstance(measure([], [], metrics=(DISTILLMOS,))[DISTILLMOS], MetricRefusal)
    with pytest.raises(EnhanceError, match="distillmos: 8000 Hz"):
        distillmos(voice, 8000)
