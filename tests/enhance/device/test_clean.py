"""Cleaning files and folders: length, place, format, and what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_onnx import build

from enhance.audio.read import info, read
from enhance.audio.write import write
from enhance.device.clean import clean_file, default_output, run_path
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def delay(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    """Returns its input, late."""
    return Enhancer(build(tmp_path_factory.mktemp("m") / "d.onnx", hop=320, overlap=80))


@pytest.fixture(scope="module")
def pole(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    return Enhancer(build(tmp_path_factory.mktemp("m") / "p.onnx", pole=0.8, gain=0.2, hop=64))


def noise(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("length", [1, 79, 319, 320, 399, 400, 1200, 70_000])
def test_file_at_the_models_rate_comes_back_sample_by_sample(
    tmp_path: Path, delay: Enhancer, length: int
) -> None:
    wave = noise(2, length)
    write(tmp_path / "a.wav", wave, 16000, "FLOAT")
    result = run_path(tmp_path / "a.wav", tmp_path / "b.wav", model=delay)
    np.testing.assert_array_equal(read(tmp_path / "b.wav", mono=False), wave)
    assert result.files[0].duration == length / 16000
    assert result.failures == []


@pytest.mark.parametrize("length", [1, 500, 66_001])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 3)])
def test_rate_channels_length_and_place_are_kept(
    tmp_path: Path, delay: Enhancer, rate: int, channels: int, length: int
) -> None:
    wave = np.zeros((channels, length), np.float32)
    places = [(length * (c + 1)) // (channels + 1) for c in range(channels)]
    wave[range(channels), places] = 0.9
    write(tmp_path / "a.wav", wave, rate, "PCM_24")
    run_path(tmp_path / "a.wav", model=delay)
    about = info(tmp_path / "a_enhanced.wav")
    assert (about.sample_rate, about.channels, about.frames) == (rate, channels, length)
    assert about.subtype == "PCM_24"
    out = read(about.path, mono=False)
    assert np.abs(out).argmax(axis=1).tolist() == places


def test_file_equals_the_call_and_channels_are_apart(tmp_path: Path, pole: Enhancer) -> None:
    wave = noise(2, 100_001)
    wave[1] = 0
    write(tmp_path / "a.wav", wave, 44100, "FLOAT")
    run_path(tmp_path / "a.wav", model=pole)
    out = read(tmp_path / "a_enhanced.wav", mono=False)
    np.testing.assert_array_equal(out, pole(wave, 44100))
    assert not out[1].any()
    assert out[0].any()


def test_strength_and_limit_are_the_enhancers_unless_given(tmp_path: Path, pole: Enhancer) -> None:
    wave = noise(2, 70_001)
    write(tmp_path / "a.wav", wave, 44100, "FLOAT")
    half = Enhancer(pole.path, strength=0.5)
    limited = Enhancer(pole.path, strength=0.5, atten_limit=6)
    for model, options, same in [
        (half, {}, half),
        (half, {"atten_limit": 6}, limited),
        (limited, {"atten_limit": float("inf")}, half),
        (limited, {"strength": 1, "atten_limit": float("inf")}, pole),
        (pole.path, {"strength": 0.5, "atten_limit": 6}, limited),
        (pole.path, {}, pole),
    ]:
        run_path(tmp_path / "a.wav", model=model, force=True, **options)
        out = read(tmp_path / "a_enhanced.wav", mono=False)
        np.testing.assert_array_equal(out, same(wave, 44100))
    assert (half.strength, half.atten_limit) == (0.5, None)
    assert (limited.strength, limited.atten_limit) == (0.5, 6)


def test_bad_strength_and_limit_are_refused_before_any_work(tmp_path: Path) -> None:
    for options, message in [
        ({"strength": 1.5}, r"strength 1\.5: must be a number from 0 to 1"),
        ({"atten_limit": -1}, "atten_limit -1: must be a number of dB, at least 0"),
    ]:
        with pytest.raises(EnhanceError, match=message):
            run_path(tmp_path / "missing.wav", model="nothing", **options)


@pytest.mark.parametrize(
    ("name", "subtype", "kept"),
    [
        ("a.flac", "PCM_24", "PCM_24"),
        ("a.ogg", "VORBIS", "VORBIS"),
        ("a.opus", "OPUS", "OPUS"),
        ("a.mp3", None, "MPEG_LAYER_III"),
        ("a.wav", "IMA_ADPCM", "PCM_16"),
        ("a.wav", "PCM_U8", "PCM_16"),
    ],
)
def test_encoding_is_kept_where_it_keeps_the_length(
    tmp_path: Path, delay: Enhancer, name: str, subtype: str | None, kept: str
) -> None:
    write(tmp_path / name, noise(1, 30_003), 48000, subtype)
    run_path(tmp_path / name, model=delay)
    about = info(default_output(tmp_path / name))
    assert (about.subtype, about.frames) == (kept, info(tmp_path / name).frames)


def test_default_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_output("x/talk.flac") == Path("x/talk_enhanced.flac")
    assert default_output("talk.voc") == Path("talk_enhanced.wav")
    assert default_output(tmp_path) == tmp_path.with_name(tmp_path.name + "_enhanced")
    with pytest.raises(EnhanceError, match="name the output folder"):
        run_path(tmp_path.anchor, model="nothing")
    monkeypatch.chdir(tmp_path)
    assert default_output(".") == tmp_path.with_name(tmp_path.name + "_enhanced")


def test_nothing_is_overwritten_unasked(tmp_path: Path, delay: Enhancer) -> None:
    write(tmp_path / "a.wav", noise(500), 16000)
    (tmp_path / "b.wav").write_text("precious")
    (tmp_path / "link.wav").hardlink_to(tmp_path / "a.wav")
    with pytest.raises(EnhanceError, match=r"b\.wav: exists already; overwrite it with --force"):
        run_path(tmp_path / "a.wav", tmp_path / "b.wav", model=delay)
    assert (tmp_path / "b.wav").read_text() == "precious"
    for same in (tmp_path / "a.wav", tmp_path / "." / "a.wav", tmp_path / "link.wav", tmp_path):
        with pytest.raises(EnhanceError, match="is the input file too"):
            run_path(tmp_path / "a.wav", same, model=delay, force=True)
    run_path(tmp_path / "a.wav", tmp_path / "b.wav", model=delay, force=True)
    assert info(tmp_path / "b.wav").frames == 500


def test_bad_input_leaves_nothing(tmp_path: Path, delay: Enhancer) -> None:
    wave = noise(1, 200_000)
    wave[0, 150_000] = np.nan  # in a later block: much has been written by then
    soundfile.write(tmp_path / "nan.wav", wave.T, 16000, "FLOAT")
    (tmp_path / "text.wav").write_text("no audio")
    before = sorted(tmp_path.iterdir())
    for name, message in [
        ("nan.wav", "sample 150000"),
        ("text.wav", "is not audio"),
        ("missing.wav", "no such file"),
    ]:
        with pytest.raises(EnhanceError, match=message):
            run_path(tmp_path / name, tmp_path / "out.wav", model=delay)
    soundfile.write(tmp_path / "good.wav", np.zeros(5), 16000)
    for target, message in [
        (tmp_path / "text.wav" / "o.wav", "cannot be written"),
        (tmp_path / "out", "is no folder that is there"),
        (tmp_path / "out.txt", "no audio format has the suffix"),
    ]:
        with pytest.raises(EnhanceError, match=message):
            run_path(tmp_path / "good.wav", target, model=delay)
    with pytest.raises(EnhanceError, match="no such model"):
        run_path(tmp_path / "good.wav", model=tmp_path / "none.onnx")
    (tmp_path / "good.wav").unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_folder_keeps_its_tree_and_finishes_past_a_broken_file(
    tmp_path: Path, delay: Enhancer, capsys: pytest.CaptureFixture[str]
) -> None:
    waves = {"a.wav": noise(700), "sub/deep/b.flac": noise(900), "sub/z.wav": noise(11)}
    for name, wave in waves.items():
        write(tmp_path / "in" / name, wave, 16000)
    (tmp_path / "in/sub/broken.wav").write_text("no audio")
    nan = np.full(5, np.nan)
    soundfile.write(tmp_path / "in/sub/nan.wav", nan, 16000, "FLOAT")
    (tmp_path / "in/notes.txt").write_text("left alone")
    (tmp_path / "in/.hidden.wav").write_text("left alone")
    with pytest.raises(EnhanceError, match=r"2 of 5 files failed, the others are done") as caught:
        run_path(tmp_path / "in", model=delay)
    assert "\n" not in str(caught.value)
    made = tmp_path / "in_enhanced"
    assert {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()} == set(waves)
    for name in waves:
        np.testing.assert_array_equal(read(made / name), read(tmp_path / "in" / name))
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{made}: 3 files: ") for line in lines)  # where they are
    failed = [line for line in lines if line.startswith("failed: ")]
    assert len(failed) == 2
    assert "broken.wav" in failed[0]
    assert "nan.wav" in failed[1]
    with pytest.raises(EnhanceError, match="5 of 5 files failed"):  # all exist by now, or are bad
        run_path(tmp_path / "in", model=delay)


def test_folder_output_inside_the_input_is_not_input(tmp_path: Path, delay: Enhancer) -> None:
    write(tmp_path / "a.wav", noise(100), 16000)
    for _ in range(2):
        result = run_path(tmp_path, tmp_path / "out", model=delay, force=True)
        assert [cleaned.output for cleaned in result.files] == [tmp_path / "out" / "a.wav"]
    write(tmp_path / "x.flac", noise(100), 16000)
    assert run_path(tmp_path / "x.flac", tmp_path / "out", model=delay).files[0].output == (
        tmp_path / "out" / "x.flac"
    )
    with pytest.raises(EnhanceError, match="is the input folder too"):
        run_path(tmp_path, tmp_path, model=delay)
    with pytest.raises(EnhanceError, match="is a file"):
        run_path(tmp_path, tmp_path / "a.wav", model=delay)
    (tmp_path / "none").mkdir()
    with pytest.raises(EnhanceError, match="holds no audio files"):
        run_path(tmp_path / "none", model=delay)


def test_remarks(tmp_path: Path, delay: Enhancer, capsys: pytest.CaptureFixture[str]) -> None:
    loud = Enhancer(build(tmp_path / "loud.onnx", gain=4))
    wave = np.array([0.1, 0.3, -0.3, 0.2, 0.26] * 20, np.float32)
    for name, rate in [("a.wav", 16000), ("b.wav", 44100), ("c.wav", 48000)]:
        write(tmp_path / "in" / name, wave, rate, "PCM_24")
    run_path(tmp_path / "in", tmp_path / "full", model=delay)
    assert "kHz is kept" not in capsys.readouterr().err
    result = run_path(tmp_path / "in", tmp_path / "out", model=delay, verbose=True, bandwidth="16k")
    lines = capsys.readouterr().err.splitlines()
    # Said once, at the first such file
    narrow = [line for line in lines if "nothing above 8 kHz is kept" in line]
    assert len(narrow) == 1
    assert "b.wav: 44100 Hz" in narrow[0]
    assert sum(" -> " in line for line in lines) == 3
    assert "clipped" not in "".join(lines)
    assert [cleaned.clipped for cleaned in result.files] == [0, 0, 0]
    out = tmp_path / "d.wav"
    run_path(tmp_path / "in/b.wav", out, model=delay, strength=0.75, bandwidth="16k")
    assert "but 25% of what is above 8 kHz is kept" in capsys.readouterr().err
    result = run_path(tmp_path / "in/a.wav", tmp_path / "c.wav", model=loud, quiet=True)
    assert result.files[0].clipped == 60
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'c.wav'}: warning: 60 samples clipped; lower the level of the input"
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    # Forty minutes of stereo against one: 100 MB of floats would show.
    code = (
        "import sys\n"
        "from enhance.device.clean import run_path\n"
        "run_path(sys.argv[1], sys.argv[2], model=sys.argv[3], quiet=True)\n"
        # Not getrusage: its peak is inherited from the process that started this one.
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    model = build(tmp_path / "m.onnx", hop=16000, overlap=80)
    peaks = []
    for minutes in (1, 40):
        source, target = tmp_path / f"{minutes}.wav", tmp_path / f"{minutes}o.wav"
        with soundfile.SoundFile(source, "w", 8000, 2) as file:
            for _ in range(minutes):
                file.write(noise(60 * 8000, 2))
        command = [sys.executable, "-c", code, *map(str, (source, target, model))]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        peaks.append(int(done.stdout) / 1024)
        assert info(target).frames == minutes * 60 * 8000
    assert peaks[1] - peaks[0] < 15
    assert peaks[1] < 150  # MiB


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, delay: Enhancer) -> None:
    write(tmp_path / "a.wav", noise(200_000), 16000)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean_file(tmp_path / "a.wav", tmp_path / "b.wav", delay, advance=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
