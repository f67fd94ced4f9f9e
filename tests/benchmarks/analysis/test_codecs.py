"""Codecs: really coded, and nothing but the coding left to tell them by."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("av")

from benchmarks.analysis.codecs import coding
from enhance.data.synthetic.voice import Voice, utterance
from enhance.errors import EnhanceError

RATE = coding.SAMPLE_RATE
CODED = [name for name in coding.CODECS if name not in coding.CONTROLS]
SLACK = {"amr-4.75k": 20, "amr-12.2k": 20, "opus-6k": 1}
"""Samples by which the correlation's peak may lie elsewhere: AMR's post-filter turns phases."""


def voice(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    wave = utterance(Voice.draw(rng), seconds, rng)
    return (0.1 * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return voice(2.0)


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """Samples by which ``b`` comes after ``a``: where their correlation is largest."""
    size = 2 * len(a)
    found = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    place = int(np.argmax(found))
    return place if place < len(a) else place - size


def snr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)))


def level(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def above(x: np.ndarray, hertz: float) -> float:
    """Share of the energy above a frequency."""
    power = np.abs(np.fft.rfft(x)) ** 2
    return float(power[np.fft.rfftfreq(len(x), 1 / RATE) > hertz].sum() / power.sum())


def test_this_build_has_all_that_is_known() -> None:
    assert coding.available() == tuple(coding.CODECS)
    assert set(coding.DEFAULT) <= set(coding.CODECS) and set(coding.CONTROLS) < set(coding.DEFAULT)


@pytest.mark.parametrize("name", CODED)
def test_coded_in_its_place(clip: np.ndarray, name: str) -> None:
    coded = coding.through(clip, name)
    assert coded.shape == clip.shape and coded.dtype == np.float32
    assert level(coded) == pytest.approx(level(clip), rel=1e-4)
    assert abs(lag(clip, coded)) <= SLACK.get(name, 0)
    # Far from the clip as given: coded, not copied. And of 8 kHz nothing above 4 kHz.
    assert -1 < snr(clip, coded) < 50
    if coding.CODECS[name].rate == 8000:
        assert above(clip, 4200) > 0.05 and above(coded, 4200) < 1e-3
        narrow = coding.through(clip, coding.NARROW)
        assert np.abs(coded - narrow).max() > 1e-3


def test_a_delay_is_seen(clip: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alignment test above can fail."""
    wrong = coding.Codec("g722", "g722", RATE, delay=0)
    monkeypatch.setitem(coding.CODECS, "g722", wrong)
    assert lag(clip, coding.through(clip, "g722")) == 22


def test_controls(clip: np.ndarray) -> None:
    plain, narrow = (coding.through(clip, name) for name in coding.CONTROLS)
    assert np.abs(plain - clip).max() <= 2**-15 and snr(clip, plain) > 60
    assert above(narrow, 4200) < 1e-4 and lag(clip, narrow) == 0
    # Below the cut it is the clip, but for the one gain that keeps its level.
    size = 2 * len(clip)
    low = np.fft.rfftfreq(size, 1 / RATE) < 3500
    ratio = np.fft.rfft(narrow, size)[low] / np.fft.rfft(clip, size)[low]
    assert np.std(np.abs(ratio)) < 0.02 * np.mean(np.abs(ratio))


@pytest.mark.parametrize("name", ["opus-6k", "aac-16k", "amr-4.75k", "gsm", "real-8k", "mp2-32k"])
def test_short_and_silent_clips_and_their_ends(name: str) -> None:
    assert coding.through(voice(0.2)[:500], name).shape == (500,)
    silent = coding.through(np.zeros(4000, np.float32), name)
    assert silent.shape == (4000,) and np.abs(silent).max() < 1e-3
    late = voice(0.5)
    late[:6000] = 0.0  # all sound in the last 2000 samples: a lost end would show
    coded = coding.through(late, name)
    assert level(coded[6000:]) > 5 * level(coded[:5000])


def test_what_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(
        EnhanceError, match=r"^codec evs: not in this build; it has none, 8k, opus"
    ) as e:
        coding.check(["gsm", "evs"])
    assert "\n" not in str(e.value)
    assert coding.check(["gsm", "none", "gsm"]) == ("gsm", "none")
    assert coding.check([]) == coding.DEFAULT
