"""Every encoding in, every suffix out; tags and speakers; names of any bytes; odd paths."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_onnx import build

from enhance.audio.read import info, read
from enhance.audio.write import SUFFIXES, write
from enhance.device.clean import clean_file, run_path
from enhance.device.enhancer import Enhancer
from enhance.device.hub import find_model
from enhance.errors import EnhanceError
from enhance.files import atomic, kind_of, read_jsonl, resolved, same_file, sha256, write_jsonl

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(6)
ENCODINGS = [
    (container, subtype)
    for container in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(container)
    if container not in ("RAW", "SD2")  # without header, without data fork
]
MP3_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000}
TAGS = {"title": "Talk", "artist": "Ann", "album": "B", "comment": "said", "genre": "Speech"}


@pytest.fixture(scope="module")
def delay(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    """Returns its input, late."""
    return Enhancer(build(tmp_path_factory.mktemp("m") / "d.onnx", hop=320))


def noise(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 48000, 11127])
def test_every_encoding_goes_into_every_suffix(tmp_path: Path, delay: Enhancer, rate: int) -> None:
    """Or is refused in one line because nothing of that suffix has the rate."""
    tried, refused, kinds = 0, set(), set()
    for number, (container, subtype) in enumerate(ENCODINGS):
        source = tmp_path / "in"
        try:
            soundfile.write(source, noise(400, 1), rate, subtype, format=container)
            about, _ = info(source), read(source)
        except (RuntimeError, ValueError, EnhanceError):  # libsndfile cannot make this one
            continue
        # All that the writer is told: the first source of a kind goes into every suffix, the others
        # into one each. VOC makes 50,000 Hz of 48,000.
        kind = (about.subtype, about.sample_rate)
        every = list(SUFFIXES)
        suffixes = [every[number % len(every)]] if kind in kinds else every
        kinds.add(kind)
        for suffix in suffixes:
            target = tmp_path / f"out{suffix}"
            tried += 1
            try:
                clean_file(source, target, delay, force=True)
            except EnhanceError as error:
                refused.add((suffix, "cannot be written with 1 channels at" in str(error)))
                continue
            made = info(target)
            assert (made.frames, made.sample_rate) == (about.frames, about.sample_rate)
            assert made.subtype == "OPUS" or suffix != ".opus"
    assert tried > 400
    assert refused <= {(".opus", True), (".mp3", True)}
    assert ((".mp3", True) in refused) == bool({rate for _, rate in kinds} - MP3_RATES)


@pytest.mark.parametrize(
    ("source", "target", "subtype"),
    [
        ("a.mp3", "b.wav", "PCM_16"),
        ("a.mp3", "b.flac", "PCM_16"),
        ("a.ogg", "b.opus", "OPUS"),
        ("a.opus", "b.ogg", "OPUS"),
        ("a.ogg", "b.oga", "VORBIS"),
        ("a.ogg", "b.mp3", "MPEG_LAYER_III"),
        ("float.wav", "b.flac", "PCM_24"),  # not 16 bits
        ("float.wav", "b.mp3", "MPEG_LAYER_III"),
        ("alac.caf", "b.caf", "PCM_24"),
        ("alac.caf", "b.wav", "PCM_24"),
    ],
)
def test_encoding_under_another_suffix(
    tmp_path: Path, delay: Enhancer, source: str, target: str, subtype: str
) -> None:
    fine = {"float.wav": "FLOAT", "alac.caf": "ALAC_24"}
    write(tmp_path / source, noise(9600), 48000, fine.get(source))
    clean_file(tmp_path / source, tmp_path / target, delay)
    assert info(tmp_path / target).subtype == subtype


def test_suffix_that_lies(tmp_path: Path, delay: Enhancer) -> None:
    write(tmp_path / "a.mp3", noise(9600), 48000)
    (tmp_path / "a.mp3").rename(tmp_path / "voicemail.wav")
    run_path(tmp_path / "voicemail.wav", model=delay)
    made = info(tmp_path / "voicemail_enhanced.wav")
    assert (made.format, made.subtype, made.frames) == ("WAV", "PCM_16", 9600)
    write(tmp_path / "a.ogg", noise(9600), 44100)
    with pytest.raises(EnhanceError, match=r"OGG OPUS cannot be written .* 44100 Hz"):
        run_path(tmp_path / "a.ogg", tmp_path / "b.opus", model=delay)
    with pytest.raises(EnhanceError, match="OPUS cannot hold VORBIS"):
        write(tmp_path / "b.opus", noise(100), 48000, "VORBIS")


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus", "a.mp3", "a.wav", "a.caf"])
def test_tags_are_kept(tmp_path: Path, delay: Enhancer, name: str) -> None:
    tags = TAGS if name.endswith("mp3") else {**TAGS, "title": "Gespräch 語"}
    kind = {"a.opus": {"format": "OGG", "subtype": "OPUS"}}.get(name, {})
    with soundfile.SoundFile(tmp_path / name, "w", 48000, 1, **kind) as file:
        for key, text in tags.items():
            setattr(file, key, text)
        file.write(noise(9600))
    for target in (name, "b.flac"):
        clean_file(tmp_path / name, tmp_path / f"x{target}", delay)
        found = info(tmp_path / f"x{target}").tags
        assert {key: found.get(key) for key in tags} == tags


@pytest.mark.parametrize("mask", [0x3F, 0x60F])
def test_speakers_are_kept(tmp_path: Path, delay: Enhancer, mask: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(500, 6), 16000, "PCM_24", format="WAVEX")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.find(b"fmt ") + 28, mask)
    path.write_bytes(data)
    run_path(path, model=delay)
    made = info(tmp_path / "a_enhanced.wav")
    assert (made.speakers, made.format, made.subtype) == (mask, "WAVEX", "PCM_24")
    np.testing.assert_array_equal(read(made.path, mono=False), read(path, mono=False))


def enhance(*words: str | bytes, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "enhance", *words], cwd=cwd, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_names_of_any_bytes(tmp_path: Path, environment: dict[str, str]) -> None:
    write(tmp_path / "a.wav", noise(500), 16000)
    for name in (b"caf\xe9", "語é".encode()):
        (tmp_path / "a.wav").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".wav"))
        done = enhance("run", "-v", name + b".wav", cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        assert sorted(os.fsencode(path.name) for path in tmp_path.iterdir()) == [
            name + b".wav",
            name + b"_enhanced.wav",
        ]
        done = enhance("run", name + b".wav", cwd=tmp_path, **environment)
        assert done.returncode == 2
        assert b"exists already" in done.stderr
        (tmp_path / os.fsdecode(name + b"_enhanced.wav")).unlink()
        (tmp_path / os.fsdecode(name + b".wav")).rename(tmp_path / "a.wav")


def test_names_of_any_bytes_in_json(tmp_path: Path) -> None:
    rows = [{"path": os.fsdecode(b"caf\xe9.wav")}, {"path": "語"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    (tmp_path / "a.jsonl").read_bytes().decode("utf-8")


@pytest.mark.parametrize("name", ["n" * 250 + ".wav", "\u9332" * 80 + ".wav", "n." + "s" * 250])
def test_long_names_are_written(tmp_path: Path, name: str) -> None:
    with atomic(tmp_path / name) as part:
        assert len(os.fsencode(part.name)) <= max(64, len(os.fsencode(name)))
        part.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_paths_that_cannot_be_looked_at_are_one_line(tmp_path: Path, delay: Enhancer) -> None:
    long = tmp_path / ("n" * 300 + ".wav")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    write(tmp_path / "a.wav", noise(500), 16000)
    for bad in (long, loop / "b.wav", tmp_path / "a\0b.wav"):
        for call in (
            lambda bad=bad: run_path(bad, model=delay),
            lambda bad=bad: run_path(tmp_path / "a.wav", bad, model=delay),
            lambda bad=bad: info(bad),
            lambda bad=bad: write(bad, noise(50), 16000),
            lambda bad=bad: find_model(bad),
            lambda bad=bad: kind_of(bad),
            lambda bad=bad: sha256(bad),
        ):
            with pytest.raises(EnhanceError) as caught:
                call()
            assert "\n" not in str(caught.value)
    write(tmp_path / ("n" * 250 + ".wav"), noise(500), 16000)
    with pytest.raises(EnhanceError, match=r"_enhanced\.wav: cannot be reached .*too long"):
        run_path(tmp_path / ("n" * 250 + ".wav"), model=delay)
    assert not same_file(tmp_path / "a.wav", tmp_path / "nothing")
    assert resolved(tmp_path / "." / "a.wav") == (tmp_path / "a.wav").resolve()
    assert kind_of(tmp_path / "a.wav" / "b") is None


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's powers away with setpriv")
def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", noise(500), 16000)
    (tmp_path / "s").mkdir(mode=0)
    limits = (
        []
        if os.geteuid()
        else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]
    )
    for words in (
        "run s/x.wav", "run x.wav s/y.wav", "run x.wav y.wav -m s/m.onnx", "info s/m",
        "data manifest s/x",
    ):  # fmt: skip
        done = subprocess.run(
            [*limits, sys.executable, "-m", "enhance", *words.split()],
            cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 2, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1
        assert "Permission denied" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["info", "default"]])
def test_full_standard_output_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "enhance", *words], cwd=ROOT, stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "enhance: No space left on device\n"


def test_nothing_is_sent_and_nothing_written_to_the_home(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", noise(500), 16000)
    for code in (
        "from enhance.device.clean import run_path\n"
        "run_path('x.wav', 'y.wav', force=True, quiet=True)",
        "import benchmarks.latency.cold_start, onnxruntime",
        "import enhance.device.offline, onnxruntime",
        "from multiprocessing import get_context\n"
        "import enhance.device.enhancer\n"
        "if __name__ == '__main__':\n"
        "    with get_context('spawn').Pool(1) as pool:\n"
        "        pool.apply(exec, ('import onnxruntime',))",
    ):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        (tmp_path / "code.py").write_text(code)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
        environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "code.py"], cwd=tmp_path, env=environment, check=True)
        assert not list(home.rglob("*"))
    nowhere = environment | {"HOME": "/proc/nowhere"}  # where a device id would be warned of
    done = enhance("run", "-qf", "x.wav", "y.wav", cwd=tmp_path, **nowhere)
    assert (done.returncode, done.stderr) == (0, b"")
    said = subprocess.run(
        [sys.executable, "-c", "import enhance, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        cwd=tmp_path, env=environment | {"ORT_DISABLE_TELEMETRY": "0"}, capture_output=True,
    )  # fmt: skip
    assert said.stdout.strip() == b"0"  # the user's own word
