"""The LADSPA plug-in through the hosts themselves: FFmpeg and SoX, against Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_export import TINY, make_model, voice
from tiny_native import need, snr_db

from enhance.audio.resampling import resample
from enhance.cli.app import main
from enhance.cli.export import write_plugin
from enhance.device.aligned_stream import AlignedStream
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.native.build import as_array, compile_library, find_compiler
from enhance.native.ladspa import _FLAGS, _SOURCE, build_plugin
from enhance.network.checkpoint import CheckpointInfo
from export.metadata import describe
from export.native.weights import native_weights

pytestmark = pytest.mark.skipif(
    find_compiler() is None or not Path("/usr/include/ladspa.h").is_file(),
    reason="NO C COMPILER OR NO ladspa.h: the plug-in was not tested; apt-get install ladspa-sdk",
)

DOCS = Path(__file__).parents[3] / "docs/device.md"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ladspa") / "tiny.bin"
    about = describe(make_model(), CheckpointInfo(TINY, {"mode": "base"}, {"step": 7}))
    path.write_bytes(native_weights(make_model(), about))
    return path


@pytest.fixture(scope="module")
def plugin(weights: Path) -> Path:
    return build_plugin(weights, weights.parent)


def recording(rate: int, channels: int = 1) -> np.ndarray:
    """Shape: -> (n, channels)"""
    rng = np.random.default_rng(8)
    waves = [resample(voice(1.0, 120 + 70 * c), 16000, rate) for c in range(channels)]
    wave = np.stack(waves, axis=1)
    return (wave + 0.02 * rng.normal(size=wave.shape)).astype(np.float32)


def by_python(weights: Path, wave: np.ndarray, rate: int, **settings: float) -> np.ndarray:
    enhancer = Enhancer(weights, engine="native", **settings)  # type: ignore[arg-type]
    stream = AlignedStream(enhancer, rate, wave.shape[1], low_delay=True)
    return np.concatenate([stream.process(wave), stream.flush()])


def ffmpeg(wave: np.ndarray, rate: int, filters: str, folder: Path) -> tuple[np.ndarray, str]:
    source, target = folder / "in.wav", folder / "out.wav"
    soundfile.write(source, wave, rate, "FLOAT")
    command = [need("ffmpeg"), "-v", "error", "-y", "-i", source, "-af", filters]
    done = subprocess.run(
        [*command, "-c:a", "pcm_f32le", target], capture_output=True, text=True, check=True
    )
    return soundfile.read(target, dtype="float32", always_2d=True)[0], done.stderr


@pytest.mark.parametrize(("rate", "channels"), [(48000, 1), (44100, 2), (16000, 1), (8000, 2)])
def test_ffmpeg_gives_what_python_gives_in_line(
    rate: int, channels: int, plugin: Path, weights: Path, tmp_path: Path
) -> None:
    wave = recording(rate, channels)
    label = ("enhance_mono", "enhance_stereo")[channels - 1]
    out, said = ffmpeg(wave, rate, f"ladspa=file={plugin}:plugin={label}:latency=1", tmp_path)
    expected = by_python(weights, wave, rate)
    assert not said
    assert out.shape == wave.shape
    inner = slice(0, len(wave) - rate // 50)
    assert np.abs(expected[inner]).max() > 0.05
    assert snr_db(expected[inner], out[inner]) > 90


def test_a_folder_whose_name_is_no_utf8(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    assert build_plugin(weights, folder).is_file()
    assert os.fsencode(folder / "enhance.so") in (folder / "pipewire.conf").read_bytes()


def test_the_port_sets_the_limit(plugin: Path, weights: Path, tmp_path: Path) -> None:
    wave = recording(48000)
    filters = f"ladspa=file={plugin}:plugin=enhance_mono:latency=1:controls=c0="
    out, _ = ffmpeg(wave, 48000, f"{filters}0", tmp_path)
    np.testing.assert_array_equal(out, wave)
    out, _ = ffmpeg(wave, 48000, f"{filters}9", tmp_path)
    expected = by_python(weights, wave, 48000, atten_limit=9.0)
    assert snr_db(expected[:46000], out[:46000]) > 90


def test_sox_gives_what_python_gives(plugin: Path, weights: Path, tmp_path: Path) -> None:
    wave = recording(44100)
    soundfile.write(tmp_path / "in.wav", wave, 44100, "FLOAT")
    command = [need("sox"), tmp_path / "in.wav", "-b", "32", "-e", "floating-point"]
    environment = {**os.environ, "LADSPA_PATH": str(plugin.parent)}
    for options, late in ((["-l", "enhance", "enhance_mono", "100"], False),
                          (["enhance", "enhance_mono", "100", "0"], True)):  # fmt: skip
        target = tmp_path / "out.wav"
        subprocess.run([*command, target, "ladspa", *options], check=True, env=environment)
        out = soundfile.read(target, dtype="float32", always_2d=True)[0]
        expected = by_python(weights, wave, 44100)
        if late:  # what the port says, here found by the correlation
            spectra = [np.fft.rfft(a[:, 0], 2 * len(wave)) for a in (expected, out)]
            found = int(np.fft.irfft(spectra[1] * spectra[0].conj()).argmax())
            assert 1000 < found < 3000
            out = out[found:]
        n = len(wave) - 4000
        assert snr_db(expected[:n], out[:n]) > 90


@pytest.mark.parametrize("rate", [500, 900])
def test_an_impossible_rate_passes_and_says_so(rate: int, plugin: Path, tmp_path: Path) -> None:
    wave = recording(16000)[:2000]
    out, said = ffmpeg(wave, rate, f"ladspa=file={plugin}:plugin=enhance_mono:latency=1", tmp_path)
    np.testing.assert_array_equal(out, wave)
    assert said.count("passes as it is (no such rate") == 1


def test_refused_weights_pass_and_say_so(weights: Path, tmp_path: Path) -> None:
    data = bytearray(weights.read_bytes())
    data[3000] ^= 1
    more = (_SOURCE / "ladspa.c").read_text() + as_array(bytes(data), "enhance_weights")
    compiler = find_compiler()
    assert compiler
    broken = compile_library(tmp_path / "broken.so", compiler, [*_FLAGS, "-O1"], more)
    wave = recording(48000)
    out, said = ffmpeg(wave, 48000, f"ladspa=file={broken}:plugin=enhance_mono", tmp_path)
    np.testing.assert_array_equal(out, wave)
    assert said.count("passes as it is (weights: damaged (checksum))") == 1


def test_the_library_needs_nothing_and_shows_one_name(plugin: Path) -> None:
    tool = [need("nm"), "-D", plugin]
    lines = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[-1] for line in lines if " T " in line] == ["ladspa_descriptor"]
    conf = plugin.with_name("pipewire.conf").read_text()
    assert f'plugin  = "{plugin}"' in conf
    assert "@" not in conf


def test_the_lines_of_the_page_run(tmp_path: Path) -> None:
    for tool in ("ffmpeg", "sox", "bash"):
        need(tool)
    section = DOCS.read_text("utf-8").partition("## Plug-in host")[2]
    lines = section.partition("```text\n")[2].partition("```")[0]
    assert lines.count("\n") == 3
    lines = lines.replace("enhance export", f"{sys.executable} -m enhance export")
    soundfile.write(tmp_path / "noisy.wav", recording(48000), 48000)
    command = ["bash", "-c", "set -e\n" + lines.replace("ffmpeg ", "ffmpeg -nostdin ")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    info = soundfile.info(tmp_path / "clean.wav")
    assert (info.frames, info.samplerate) == (48000, 48000)


def test_shipped_models_need_no_torch(tmp_path: Path) -> None:
    command = (
        "import sys; from enhance.cli.app import main; main(); assert 'torch' not in sys.modules"
    )
    words = ["export", "small", "--ladspa", str(tmp_path / "a")]
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "enhance_mono and enhance_stereo" in done.stdout
    assert (tmp_path / "a/enhance.so").stat().st_size < 1_000_000


def test_quiet_it_says_nothing(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_plugin(weights, tmp_path / "a", force=False, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_is_refused(
    plugin: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(EnhanceError, match="exists already"):
        build_plugin(weights, plugin.parent)
    with pytest.raises(EnhanceError, match="is a file"):
        build_plugin(weights, weights)
    damaged = tmp_path / "a.bin"
    damaged.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(EnhanceError, match="cut short"):
        build_plugin(damaged, tmp_path)
    assert not (tmp_path / "enhance.so").exists()
    for words, why in (
        (["small", "--ladspa", str(tmp_path), "--onnx"], "leave --onnx out"),
        (["nothing", "--ladspa", str(tmp_path)], "no such model"),
    ):
        monkeypatch.setattr(sys, "argv", ["enhance", "export", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert why in capsys.readouterr().err


def test_a_run_is_exported_with_its_certificate(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    write_plugin(checkpoint, tmp_path, force=False, quiet=True, int8=False, clips=pairs, licence="")
    names = {"enhance.so", "pipewire.conf", "enhance.bin", "enhance.certificate.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
