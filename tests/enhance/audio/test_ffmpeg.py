"""M4A, WebM, AMR, WavPack and the sound of videos, made here and read back."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_onnx import build

from enhance.audio.ffmpeg import SUFFIXES
from enhance.audio.read import AudioReader, info, read
from enhance.device.clean import default_output, run_path
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError

av: Any = pytest.importorskip("av", reason="PyAV (extra formats) is not installed")

SECONDS = 1.5
KINDS = [  # suffix, codec, rate, layout, as such files come from phones, browsers and cameras
    (".m4a", "aac", 44100, "mono"),
    (".m4a", "alac", 48000, "stereo"),
    (".mp4", "aac", 48000, "stereo"),
    (".mov", "pcm_s16le", 48000, "mono"),
    (".3gp", "aac", 16000, "mono"),
    (".aac", "aac", 32000, "mono"),
    (".webm", "libopus", 48000, "mono"),
    (".mkv", "flac", 44100, "stereo"),
    (".wma", "wmav2", 44100, "mono"),
    (".avi", "pcm_s16le", 16000, "mono"),
    (".wv", "wavpack", 44100, "mono"),
]
CONTAINERS = {".m4a": "ipod", ".mkv": "matroska", ".wma": "asf", ".aac": "adts", ".mp4": "mp4"}


def tone(rate: int, channels: int, seconds: float = SECONDS) -> np.ndarray:
    """float32 (channels, N); 440 Hz, the second channel at half of the level."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave, wave / 2])[:channels].astype(np.float32)


def encode(
    path: Path,
    codec: str,
    rate: int,
    layout: str = "mono",
    video: bool = False,
    wave: np.ndarray | None = None,
    tags: dict[str, str] | None = None,
    form: str | None = None,
) -> None:
    wave = tone(rate, 2 if layout == "stereo" else 1) if wave is None else wave
    kind = CONTAINERS.get(path.suffix, path.suffix[1:])
    with av.open(str(path), "w", format=kind) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if form is not None:
            stream.format = form
        if codec == "wmav2":
            stream.bit_rate = 96000
        if video:
            film = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
            for _ in range(int(4 * SECONDS * 25)):  # longer than the sound
                black = np.zeros((64, 64, 3), np.uint8)
                container.mux(film.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
            container.mux(film.encode())
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in av.AudioResampler(stream.format, stream.layout, rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())


@pytest.mark.parametrize(("suffix", "codec", "rate", "layout"), KINDS)
def test_what_phones_and_browsers_record_is_read(
    tmp_path: Path, suffix: str, codec: str, rate: int, layout: str
) -> None:
    path = tmp_path / f"memo{suffix}"
    encode(path, codec, rate, layout)
    assert path.suffix in SUFFIXES
    wave, channels = read(path, mono=False), 2 if layout == "stereo" else 1
    about = info(path)
    assert (about.sample_rate, about.channels, about.frames) == (rate, channels, wave.shape[1])
    assert about.subtype != "FLOAT" and not about.remark
    assert about.duration == pytest.approx(SECONDS, abs=0.1)
    if codec == "aac" and suffix == ".m4a":  # neither what the coder puts before nor behind
        assert wave.shape[1] == int(SECONDS * rate)
    middle = slice(rate // 4, rate)
    expected = tone(rate, channels)[:, middle]
    for channel in range(channels):
        spectrum = np.abs(np.fft.rfft(wave[channel, middle]))
        assert np.argmax(spectrum) * rate / (middle.stop - middle.start) == pytest.approx(
            440, abs=3
        )
        rms = np.sqrt(np.mean(wave[channel, middle] ** 2))
        assert rms == pytest.approx(np.sqrt(np.mean(expected[channel] ** 2)), rel=0.1)
    with AudioReader(path) as reader:  # any part of it, by blocks
        part = np.concatenate(list(reader.blocks(1000, 5000)))
    np.testing.assert_array_equal(part.T, wave[:, 1000:6000])


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".m4a", "aac"), (".mkv", "flac"), (".wma", "wmav2"), (".wv", "wavpack")]
)
def test_tags_are_read_and_kept(tmp_path: Path, suffix: str, codec: str) -> None:
    tags = {"title": "Überfahrt", "artist": "Nia", "album": "Seven", "genre": "Talk"}
    more = {"date": "2024", "track": "3", "comment": "by the sea", "copyright": "free"}
    path = tmp_path / f"memo{suffix}"
    encode(path, codec, 16000, tags=tags | more)
    found = info(path).tags
    expected = tags | {**more, "tracknumber": more["track"]}
    del expected["track"]
    assert {name: found.get(name) for name in expected} == expected
    model = Enhancer(build(tmp_path / "d.onnx", hop=320))
    made = run_path(path, tmp_path / "out.wav", model=model, quiet=True).files[0].output
    kept = info(made).tags
    assert {name: kept.get(name) for name in expected} == expected
    encode(path, codec, 16000)
    assert info(path).tags.keys() <= {"software"}


def test_a_stream_whose_rate_changes_is_whole(tmp_path: Path) -> None:
    """ffmpeg would guess its length from how little its beginning takes."""
    wave = np.zeros((1, 12 * 16000), np.float32)
    wave[0, 6 * 16000 :] = np.random.default_rng(0).standard_normal(6 * 16000) / 10
    for quiet_first in (True, False):
        path = tmp_path / "memo.aac"
        encode(path, "aac", 16000, wave=wave if quiet_first else wave[:, ::-1])
        assert info(path).duration == pytest.approx(12, abs=0.2)


@pytest.mark.parametrize(
    ("first", "second"),
    [((16000, "mono"), (16000, "stereo")), ((44100, "stereo"), (16000, "mono"))],
)
def test_a_stream_whose_form_changes_keeps_its_first(
    tmp_path: Path, first: tuple[int, str], second: tuple[int, str]
) -> None:
    """A radio's goes from mono to stereo."""
    data = b""
    for form in (first, second):
        encode(tmp_path / "part.aac", "aac", *form)
        data += (tmp_path / "part.aac").read_bytes()
    (tmp_path / "radio.aac").write_bytes(data)
    wave = read(tmp_path / "radio.aac", mono=False)
    rate, channels = first[0], 2 if first[1] == "stereo" else 1
    assert wave.shape == (channels, pytest.approx(2 * SECONDS * rate, rel=0.1))
    behind = wave[0, int((SECONDS + 0.5) * rate) :][: rate // 2]
    assert np.argmax(np.abs(np.fft.rfft(behind))) * 2 == pytest.approx(440, abs=4)


def test_a_video_longer_than_its_sound_is_whole(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"film{suffix}"
        encode(path, "aac", 44100, video=True)
        assert info(path).duration == pytest.approx(SECONDS, abs=0.1)


def test_run_writes_wav_beside_and_in_folders(tmp_path: Path) -> None:
    model = Enhancer(build(tmp_path / "d.onnx", hop=320))
    folder = tmp_path / "in"
    folder.mkdir()
    encode(folder / "memo.m4a", "aac", 16000)
    soundfile.write(folder / "talk.flac", tone(16000, 1)[0], 16000)
    alone = run_path(folder / "memo.m4a", model=model, quiet=True).files[0].output
    assert alone == folder / "memo_enhanced.wav"
    made = soundfile.info(alone)
    assert (made.subtype, made.frames) == ("PCM_16", info(folder / "memo.m4a").frames)
    alone.unlink()
    assert default_output("memo.").name == "memo._enhanced.wav"
    (tmp_path / "place").mkdir()
    into = run_path(folder / "memo.m4a", tmp_path / "place", model=model, quiet=True)
    assert into.files[0].output == tmp_path / "place/memo.wav"
    run_path(folder, tmp_path / "out", model=model, quiet=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"memo.wav", "talk.flac"}
    soundfile.write(folder / "memo.wav", tone(8000, 1)[0], 8000)
    with pytest.raises(EnhanceError, match=r"memo\.m4a: memo\.wav has the same output"):
        run_path(folder, tmp_path / "two", model=model, quiet=True)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"memo.wav", "talk.flac"}
    # The file whose own name it is, though the other comes first.
    assert soundfile.info(tmp_path / "two/memo.wav").frames == int(SECONDS * 8000)


@pytest.mark.parametrize(
    ("suffix", "codec", "form", "kept"),
    [
        (".m4a", "alac", "s32p", "PCM_24"),
        (".m4a", "alac", "s16p", "PCM_16"),
        (".mov", "pcm_s24le", None, "PCM_24"),
        (".mov", "pcm_f32le", None, "PCM_24"),
        (".wv", "wavpack", "fltp", "PCM_24"),
        (".wv", "wavpack", "s16p", "PCM_16"),
        (".webm", "libopus", None, "PCM_16"),
    ],
)
def test_samples_finer_than_16_bits_stay_so(
    tmp_path: Path, suffix: str, codec: str, form: str | None, kept: str
) -> None:
    path = tmp_path / f"memo{suffix}"
    encode(path, codec, 48000, form=form)
    model = Enhancer(build(tmp_path / "d.onnx", hop=320))
    run_path(path, tmp_path / "b.wav", model=model, quiet=True)
    assert soundfile.info(tmp_path / "b.wav").subtype == kept


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mov", "pcm_s16le"), (".wma", "wmav2"), (".avi", "pcm_s16le")]
)
def test_what_is_cut_off_is_refused(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"memo{suffix}"
    encode(path, codec, 44100)
    whole = path.read_bytes()
    for share in (0.3, 0.6):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(EnhanceError, match="truncated"):
            read(path)


def test_an_avi_that_was_piped_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "memo.avi"
    encode(path, "pcm_s16le", 16000)
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[at : at + 4], "little") == SECONDS * 16000
    for unknown in (0, 1 << 30):
        data[at : at + 4] = unknown.to_bytes(4, "little")
        path.write_bytes(data)
        assert info(path).frames == SECONDS * 16000


def test_damage_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "memo.m4a"
    encode(path, "aac", 44100)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    lines = []
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        at = rng.integers(12, len(data), 40)
        data[at] = rng.integers(0, 256, 40)
        path.write_bytes(data.tobytes())
        try:
            assert np.isfinite(read(path)).all()
        except EnhanceError as error:
            lines.append(str(error))
    assert lines and not any(capfd.readouterr())  # nor does ffmpeg say anything of its own
    assert all(line.startswith(str(path)) and "\n" not in line for line in lines)


def test_a_film_without_sound_and_names_that_mean_something_to_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(black))
        container.mux(stream.encode())
    with pytest.raises(EnhanceError, match="has no sound"):
        read(film)
    for name in (b"concat:memo.m4a", b"%d\xff\xfe.m4a", b"http:"):
        odd = tmp_path / os.fsdecode(name)
        encode(tmp_path / "memo.m4a", "aac", 16000)
        (tmp_path / "memo.m4a").rename(odd)
        assert info(odd).sample_rate == 16000
    monkeypatch.chdir(tmp_path)
    assert info(Path("concat:memo.m4a")).sample_rate == 16000


def test_without_pyav_and_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memo.m4a"
    encode(path, "aac", 16000)

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", lambda **_: Full())
        with pytest.raises(EnhanceError, match=r"no room .*No space left on device.*TMPDIR"):
            read(path)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EnhanceError, match=r"pip install 'enhance\[formats\]', or convert"):
        read(path)
