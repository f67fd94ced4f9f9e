"""Copy-synthesis: the vocoders keep what is said, and the made task gives nothing away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("pyworld")

from scipy.signal import stft

from benchmarks.analysis.codecs import copy_synthesis
from benchmarks.analysis.parts.work import Work
from enhance.cli.app import app
from enhance.data.corpus.manifest import Clip, read_manifest, write_manifest
from enhance.data.synthetic.voice import Voice, utterance
from enhance.errors import EnhanceError


def voice(speaker: int, seconds: float = 0.8) -> np.ndarray:
    return utterance(
        Voice.draw(np.random.default_rng(speaker)), seconds, np.random.default_rng(9 + speaker)
    )


def log_spectrum(wave: np.ndarray) -> np.ndarray:
    return np.log(np.abs(stft(wave, 16000, nperseg=400, noverlap=240)[2]) + 1e-3).ravel()


@pytest.mark.parametrize("name", list(copy_synthesis.METHODS))
def test_a_copy_has_the_spectrum_and_not_the_waveform(name: str) -> None:
    wave, other = voice(0), voice(1)
    copy = copy_synthesis.METHODS[name](wave, 5)
    assert copy.shape == wave.shape and np.isfinite(copy).all()
    copy = copy * np.sqrt(np.mean(wave**2) / np.mean(copy**2))
    alike = np.corrcoef(log_spectrum(wave), log_spectrum(copy))[0, 1]
    assert alike > 0.75
    assert alike > np.corrcoef(log_spectrum(wave), log_spectrum(other))[0, 1] + 0.2
    assert abs(np.corrcoef(wave, copy)[0, 1]) < 0.8
    assert np.array_equal(
        copy_synthesis.METHODS[name](wave, 5), copy_synthesis.METHODS[name](wave, 5)
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers with two clips each."""
    folder = tmp_path_factory.mktemp("speech")
    clips = []
    for i in range(8):
        path = folder / f"{i}.wav"
        soundfile.write(path, voice(i // 2, 0.7), 16000)
        clips.append(Clip(path, 0.7, 16000, "speech", "made here", f"s{i // 2}"))
    write_manifest(folder / "manifest.jsonl", clips)
    return folder


def test_the_task(speech: Path, tmp_path: Path) -> None:
    names = ["none", "gsm", "mu-law", "8k"]
    words = [
        "data",
        "copy-synthesis",
        str(speech),
        "-o",
        str(tmp_path / "task"),
        "-q",
        "--jobs",
        "1",
    ]
    words += ["--method", "griffin-lim", "--held-back", "0.4"]
    done = CliRunner().invoke(app, [*words, *(w for n in names for w in ("--codec", n))])
    assert done.exit_code == 0, done.output
    parts = [read_manifest(tmp_path / "task" / f"{n}.jsonl") for n in ("train", "evaluation")]
    speakers = [{clip.speaker for clip in part} for part in parts]
    assert all(speakers) and not speakers[0] & speakers[1]
    clips = [clip for part in parts for clip in part]
    assert len(clips) == 16 and {c.source for c in clips} == {"made here"}
    assert Counter((c.labels["label"], c.labels["method"]) for c in clips) == {
        ("bonafide", "none"): 8, ("spoof", "griffin-lim"): 8,
    }  # fmt: skip
    # Every codec as often for the ones as for the others, and equal length and level.
    shares = Counter((c.labels["label"], c.labels["codec"]) for c in clips)
    assert shares == {(label, n): 2 for label in ("bonafide", "spoof") for n in names}
    for clip in clips:
        wave, rate = soundfile.read(clip.path)
        assert (rate, len(wave)) == (16000, 11200)
        assert np.sqrt(np.mean(wave**2)) == pytest.approx(copy_synthesis.LEVEL, rel=0.01)


def test_refusals_leave_nothing(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "task"
    for more, told in (
        ({"methods": ["hifi-gan"]}, "method hifi-gan: unknown; there is griffin-lim, world, lpc"),
        ({"names": ["evs"]}, "codec evs: not in this build"),
        ({"per_clip": 99}, "--per-clip 99: must be from 1"),
        ({"source": "else"}, "--source else: no speech of it"),
    ):
        with pytest.raises(EnhanceError, match=told):
            copy_synthesis.make(speech, out, Work(quiet=True), **more)
    assert not any(tmp_path.iterdir())
