"""Headers that lie about the length: all of the audio is read, or the file is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from enhance.audio.mp3_frames import parse
from enhance.audio.read import AudioReader, info, read
from enhance.audio.wav_pipe import WavReader, WavWriter
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import scan_folder
from enhance.device.clean import run_path
from enhance.errors import EnhanceError

RNG = np.random.default_rng(5)
WAVE = RNG.uniform(-0.5, 0.5, 16000)
PCM = (WAVE * 32767).astype("<i2").tobytes()
LIST = b"LIST" + struct.pack("<I", 10) + b"INFOISFT\0\0"
NOT_KNOWN = [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF]


def wav(path: Path, size: int, tail: bytes = b"", riff: int | None = None) -> Path:
    """16-bit mono at 16 kHz; ``size`` is what the data chunk promises."""
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    riff = min(size + 36, 0xFFFFFFFF) if riff is None else riff
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVE" + fmt + b"data" + struct.pack("<I", size)
    path.write_bytes(head + PCM + tail)
    return path


def same(path: Path) -> None:
    assert info(path).frames == 16000
    np.testing.assert_array_equal(read(path), np.frombuffer(PCM, "<i2") / np.float32(32768))


@pytest.mark.parametrize("size", NOT_KNOWN)
@pytest.mark.parametrize("tail", [b"", LIST])
def test_wav_of_unknown_length_runs_to_the_end(tmp_path: Path, size: int, tail: bytes) -> None:
    path = wav(tmp_path / "a.wav", size, tail)
    same(path)
    assert info(path).remark == ""
    np.testing.assert_array_equal(read(path, start=9000, frames=77), read(path)[9000:9077])


@pytest.mark.parametrize("size", [2, 16000, 31998])
@pytest.mark.parametrize("riff", [None, 36 + len(PCM)])
def test_wav_of_too_small_a_size_is_read_whole_and_said(
    tmp_path: Path, size: int, riff: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wav(tmp_path / "a.wav", size, riff=riff)
    same(path)
    run_path(path, strength=0, quiet=True)
    said = capsys.readouterr().err
    assert f"a.wav: warning: its header promises {size} bytes of audio, 32000 are there" in said
    same(tmp_path / "a_enhanced.wav")


@pytest.mark.parametrize(
    "tail",
    [
        LIST,
        b"bext" + struct.pack("<I", 602) + bytes(602) + LIST,
        b"id3 " + struct.pack("<I", 11) + b"ID3\3" + bytes(7) + b"\0",
        b"id3 " + struct.pack("<I", 11) + b"ID3\3" + bytes(7),  # without its byte of padding
        b"TAG" + b"x" * 125,
        b"APETAGEX" + bytes(200),
        b"\0",
    ],
)
def test_what_follows_the_samples_is_no_audio(tmp_path: Path, tail: bytes) -> None:
    same(wav(tmp_path / "a.wav", len(PCM), tail))
    assert info(tmp_path / "a.wav").remark == ""


def test_wav_beyond_4_gb_with_a_size_that_wrapped(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", 32000)
    with path.open("r+b") as file:
        file.truncate(44 + 2**32 + 32000)  # sparse
    with AudioReader(path) as reader:
        assert reader.info.frames == 2**31 + 16000
        assert len(next(reader.blocks(2**31 + 15990))) == 10
        np.testing.assert_allclose(next(reader.blocks(100, 5))[:, 0], WAVE[100:105], atol=1e-4)


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_wav_into_a_file_that_can_only_grow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.wav"
    with path.open(mode) as file:  # "ab" as the shell's >>: what is written goes to the end
        out = WavWriter(file, 16000, 1, "PCM_16")
        out.write(np.frombuffer(PCM, "<i2")[:, None] / 32768)
        out.close()
    same(path)


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_rf64_and_odd_sizes(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "a.rf64"
    soundfile.write(path, WAVE, 16000, "PCM_16", format="RF64")
    data = bytearray(path.read_bytes())
    data[:4] = name
    at = data.find(b"ds64") + 16
    for size in (32000, 0, 16000, (1 << 64) - 1):
        struct.pack_into("<Q", data, at, size)
        path.write_bytes(data)
        np.testing.assert_allclose(read(path), WAVE, atol=1e-4)
        if size != 16000:  # a pipe cannot look ahead for the rest
            assert sum(map(len, WavReader(io.BytesIO(data)))) == 16000
    struct.pack_into("<Q", data, at, 64000)
    path.write_bytes(data)
    with pytest.raises(EnhanceError, match="is truncated"):
        info(path)


@pytest.mark.parametrize(
    ("container", "name", "field"),
    [("AIFF", b"SSND", ">4xI"), ("AU", b".snd", ">8xI"), ("CAF", b"data", ">4xq"),
     ("W64", b"data", "<16xQ")],
)  # fmt: skip
def test_other_containers_refuse_a_size_that_is_too_small(
    tmp_path: Path, container: str, name: bytes, field: str
) -> None:
    path = tmp_path / "a"
    soundfile.write(path, WAVE, 16000, "PCM_16", format=container)
    assert info(path).frames == 16000
    data = bytearray(path.read_bytes())
    at = data.find(name) + struct.calcsize(field) - struct.calcsize(field[0] + field[-1])
    kind = field[0] + field[-1]
    struct.pack_into(kind, data, at, struct.unpack_from(kind, data, at)[0] // 2)
    path.write_bytes(data)
    with pytest.raises(EnhanceError, match="has a wrong size in its header"):
        info(path)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG"])
def test_two_files_in_one_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    soundfile.write(path, WAVE, 16000, format=kind)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(EnhanceError, match="one after another"):
        info(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_ends_between_two_pages_is_read_and_said(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.tile(WAVE, 9), 16000, subtype, format="OGG")
    assert info(path).remark == ""
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"OggS")])
    assert info(path).remark == "its last page does not end the stream, the rest may be missing"
    assert 0 < len(read(path)) == info(path).frames < 9 * 16000


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_cut_ogg_is_refused(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, WAVE, 16000, subtype, format="OGG")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EnhanceError, match="is truncated"):
        info(path)


def mp3(
    folder: Path, mode: str = "VARIABLE", rate: int = 44100, channels: int = 1
) -> tuple[Path, Path, int]:
    """An MP3 with the frame that counts and one without it, and the number of frames."""
    wave = np.concatenate([0.3 * RNG.standard_normal(3 * rate), 1e-4 * RNG.standard_normal(rate)])
    whole, bare = folder / "whole.mp3", folder / "bare.mp3"
    with soundfile.SoundFile(
        whole, "w", rate, channels, "MPEG_LAYER_III", format="MP3", bitrate_mode=mode,
        compression_level=0.5,
    ) as file:  # fmt: skip
        file.write(np.tile(wave[:, None], channels))
    data = whole.read_bytes()
    first = parse(data[:4])
    bare.write_bytes(data[first.size :])
    at = first.side + 8
    return whole, bare, int.from_bytes(data[at : at + 4], "big")


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (48000, 2), (22050, 2), (8000, 1)])
def test_mp3_that_counts_no_frames_is_read_whole(
    tmp_path: Path, mode: str, rate: int, channels: int
) -> None:
    whole, bare, frames = mp3(tmp_path, mode, rate, channels)
    assert info(whole).frames == 4 * rate
    samples = 1152 if rate >= 32000 else 576
    wave = read(bare, mono=False)
    assert wave.shape == (channels, frames * samples)
    # What the counting frame says is left out of `whole` at the front is there.
    expected = read(whole, mono=False)
    late = [k for k in range(2500) if np.allclose(wave[:, k : k + 99], expected[:, :99], atol=1e-6)]
    assert len(late) == 1
    # libsndfile's decoder gives slightly other samples where a read begins.
    np.testing.assert_allclose(wave[:, late[0] :][:, : 4 * rate], expected, atol=1e-3)
    part = read(bare, mono=False, start=rate, frames=9000)  # its first frames miss their past
    np.testing.assert_allclose(part[:, 5000:], wave[:, rate + 5000 : rate + 9000], atol=1e-3)
    if mode == "VARIABLE":
        assert soundfile.info(bare).frames < 3 * rate  # what libsndfile believes


def test_mp3_that_is_cut_in_the_middle_of_frames(tmp_path: Path) -> None:
    _, bare, _ = mp3(tmp_path)
    whole = read(bare)
    data = bare.read_bytes()
    for name, part in [
        ("front.mp3", data[7001:]),  # begins within a frame, its past is missing
        ("tags.mp3", b"ID3\4\0\0\0\0\1\0" + bytes(128) + data + b"TAG" + bytes(125)),
    ]:
        (tmp_path / name).write_bytes(part)
        wave = read(tmp_path / name)
        assert 100_000 < len(wave) <= len(whole)
        sure = slice(-len(wave) + 10 * 1152, None)
        np.testing.assert_allclose(wave[sure], whole[sure], atol=1e-3)
    (tmp_path / "end.mp3").write_bytes(data[:-5])
    np.testing.assert_allclose(read(tmp_path / "end.mp3"), whole[:-1152], atol=1e-3)


def test_mp3_with_a_wrong_count(tmp_path: Path) -> None:
    whole, _, frames = mp3(tmp_path)
    data = bytearray(whole.read_bytes())
    expected = read(whole)
    (tmp_path / "two.mp3").write_bytes(2 * data)
    assert info(tmp_path / "two.mp3").frames > 2 * len(expected)
    assert "counts" in info(tmp_path / "two.mp3").remark
    # The encoder's delay is cut off as of the file with the right count, the end only of that.
    np.testing.assert_allclose(
        read(tmp_path / "two.mp3", frames=len(expected)), expected, atol=1e-3
    )
    at = 44 - 15  # in a mono frame: 4 + 17 + 8
    for wrong in (frames // 2, frames + 1, 0):
        data[at : at + 4] = wrong.to_bytes(4, "big")
        path = tmp_path / "wrong.mp3"
        path.write_bytes(data)
        assert len(expected) <= info(path).frames <= frames * 1152
        assert info(path).frames == len(read(path))
        np.testing.assert_allclose(read(path)[: len(expected)], expected, atol=1e-3)
        assert (len(read(path)) == len(expected)) == (wrong > frames)
        assert bool(info(path).remark) == (wrong == frames // 2)
    whole.write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(EnhanceError, match="is truncated"):
        info(whole)


def test_mp3s_that_were_joined_are_read_whole_or_refused(tmp_path: Path) -> None:
    one, _, frames = mp3(tmp_path)
    data, joined = one.read_bytes(), tmp_path / "joined.mp3"
    picture = RNG.integers(0, 255, 3 << 16, np.uint8).tobytes()
    tag = b"ID3\3\0\0\0\x0c\0\0" + picture  # 12 << 14 bytes, more than rubbish may be
    joined.write_bytes(data + tag + data)
    assert info(joined).frames > 2 * info(one).frames
    assert f"{2 * frames + 1} are there and were read" in info(joined).remark
    second = read(joined)[-len(read(one)) :]
    assert np.abs(second).max() > 0.5
    other = mp3(tmp_path, rate=48000)[0].read_bytes()
    for between in (b"", tag):
        joined.write_bytes(data + between + other)
        with pytest.raises(EnhanceError, match="several recordings one after another"):
            info(joined)


def test_layer_2_is_read_whole_or_refused(tmp_path: Path) -> None:
    def silent(bits: int) -> bytes:
        head = bytes([0xFF, 0xFD, bits << 4, 0xC0])
        frame = parse(head)
        return head.ljust(frame.size, b"\0")

    path = tmp_path / "a.mp3"
    for rates, good in [((8, 8), True), ((4, 14), True), ((14, 1), False)]:
        path.write_bytes(silent(rates[0]) * 40 + silent(rates[1]) * 40)
        if good:
            assert info(path).frames == len(read(path)) == 80 * 1152
        else:
            with pytest.raises(EnhanceError, match="can be read"):
                info(path)


def test_the_manifest_counts_and_training_hears_the_same(tmp_path: Path) -> None:
    _, _, frames = mp3(tmp_path)
    wav(tmp_path / "a.wav", 100)
    clips, failures = scan_folder(tmp_path, quiet=True)
    assert not failures
    found = {clip.path.name: round(clip.duration * clip.sample_rate) for clip in clips}
    assert (found["bare.mp3"], found["a.wav"]) == (frames * 1152, 16000)
    for cache_mb in (0, 100):
        store = ClipStore([c for c in clips if c.path.stem == "a"], cache_mb=cache_mb, quiet=True)
        np.testing.assert_array_equal(store.whole(0), read(tmp_path / "a.wav"))
        store = ClipStore([c for c in clips if c.path.stem == "bare"], 44100, cache_mb, quiet=True)
        assert len(store.whole(0)) == frames * 1152


@pytest.mark.parametrize("rate", [0, 4_000_000_000])
def test_a_rate_that_cannot_be_is_told_in_true_words(tmp_path: Path, rate: int) -> None:
    path = wav(tmp_path / "a.wav", len(PCM))
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    with pytest.raises(EnhanceError, match="its header is damaged: the sample rate"):
        info(path)


def test_an_mp3_without_a_good_frame_is_told_in_true_words(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, WAVE, 16000)
    whole = path.read_bytes()
    for data in (whole[:60] + bytes(len(whole) - 60), bytes(3000)):
        path.write_bytes(data)
        with pytest.raises(EnhanceError, match="no frame of an MP3 can be decoded") as caught:
            info(path)
        assert "pipe" not in str(caught.value) and "not exist" not in str(caught.value)
