"""Transcripts, vocabularies and error rates of CTC fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.ctc import score
from distill.ctc.transcripts import Transcript, read_transcripts
from distill.ctc.vocabulary import Vocabulary, normalise, tokens_of
from enhance.errors import EnhanceError


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for name in ("a/1.wav", "a/2.wav"):
        soundfile.write(tmp_path / name, np.zeros(1000, np.float32), 16000)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'path,text,speaker,x\na/1.wav,"Yes, ""we"" do",anna,1\na/2.wav,no,unknown,\n'),
        ("t.tsv", 'path\ttext\tspeaker\tx\na/1.wav\tYes, "we" do\tanna\t1\na/2.wav\tno\t\t2\n'),
        (
            "t.jsonl",
            json.dumps({"path": "a/1.wav", "text": 'Yes, "we" do', "speaker": "anna", "x": 1})
            + '\n{"path": "./a/2.wav", "text": "no"}\n',
        ),
    ],
)
def test_three_forms_of_one_list(audio: Path, name: str, content: str) -> None:
    (audio / name).write_text(content)
    found = read_transcripts(audio / name)
    assert found == [
        Transcript(audio / "a/1.wav", 'Yes, "we" do', "anna"),
        Transcript(audio / "a/2.wav", "no", ""),
    ]
    path, text, speaker = found[0]
    assert path.is_absolute() and (text, speaker) == ('Yes, "we" do', "anna")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.csv", "path,words\na/1.wav,yes\n", r"entry 1: lacks `text` \(there is path, words\)"),
        ("t.csv", "path,text\na/1.wav,yes\na/3.wav,no\n", r"1 of 2 audio files .* first .*a/3.wav"),
        ("t.csv", "path,text\na/1.wav,yes\na/2.wav,  \n", "entry 2: `text` is empty"),
        ("t.csv", "path,text\na/1.wav,yes, we do\n", "entry 1: has another number of columns"),
        ("t.tsv", "path\ttext\na/1.wav\n", "entry 1: has another number of columns"),
        ("t.csv", "path,text\na/1.wav,x\na/2.wav,y\na/../a/1.wav,z\n", "entries 1 and 3: both"),
        ("t.csv", "path,text\n", "holds no transcript"),
        ("t.jsonl", '{"path": "a/1.wav", "text": 3}\n', "`text` is empty or no text"),
        ("t.jsonl", '{"path": "a/1.wav"\n', "line 1: not JSON"),
        ("t.txt", "a/1.wav yes\n", "transcripts are a .csv, .tsv, .jsonl file"),
    ],
)
def test_what_is_refused(audio: Path, name: str, content: str, match: str) -> None:
    (audio / name).write_text(content)
    with pytest.raises(EnhanceError, match=match) as refusal:
        read_transcripts(audio / name)
    assert "\n" not in str(refusal.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="no such file of transcripts"):
        read_transcripts(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "char", "word"),
    [
        ("  Don’t stop—now!\n", "DON'T STOP NOW", "Don’t stop—now!"),
        ("well-known, 42 %", "WELL KNOWN 42", "well-known, 42 %"),
        ("cafe\u0301 straße", "CAFÉ STRASSE", "café straße"),
        ("a|b <pad>", "A B PAD", "a|b <pad>"),
        ("नमस्ते", "नमस्ते", "नमस्ते"),  # vowel signs and virama are marks, not letters
        ("... !", "", "... !"),
    ],
)
def test_normalised_text(text: str, char: str, word: str) -> None:
    assert normalise(text, "char") == char
    assert normalise(text, "word") == word
    assert normalise(char, "char") == char


def test_tokens_and_numbers() -> None:
    assert tokens_of("AB A", "char") == ["A", "B", "|", "A"]
    assert tokens_of("A<unk> B", "char") == ["A", "<unk>", "|", "B"]  # as a model may say it
    assert tokens_of("dz a", "word") == ["dz", "a"]
    letters = Vocabulary.of(["BA A", "C"], "char")
    assert letters.tokens == ("<pad>", "<unk>", "|", "A", "B", "C")
    assert letters.encode("AD C") == [3, 1, 2, 5]
    assert letters.strange(["AD DE", "BA"]) == {"D": 2, "E": 1}
    phones = Vocabulary.of(["dz a", "a n"], "word")
    assert phones.tokens == ("<pad>", "<unk>", "a", "dz", "n")
    assert phones.encode("dz b") == [3, 1]


@pytest.mark.parametrize("token", ["<pad>", "<unk>", "|"])
def test_words_with_a_meaning_of_their_own(token: str) -> None:
    with pytest.raises(EnhanceError, match="has a meaning of its own"):
        Vocabulary.of([f"a {token} b"], "word")


def test_a_path_becomes_text() -> None:
    letters = Vocabulary(("<pad>", "<unk>", "|", "A", "B"), "char")
    assert letters.decode([0, 3, 3, 0, 3, 4, 2, 0, 2, 2, 4, 0]) == "AAB B"
    assert letters.decode([2, 0, 0, 2]) == letters.decode([]) == ""
    phones = Vocabulary(("a", "<pad>", "dz"), "word", blank=1)
    assert phones.decode([1, 2, 2, 1, 2, 0, 0, 1]) == "dz dz a"


@pytest.mark.parametrize("units", ["char", "word"])
def test_vocabulary_on_disk(tmp_path: Path, units: str) -> None:
    vocabulary = Vocabulary.of(["ab ç", "d"], units)
    vocabulary.write(tmp_path)
    assert Vocabulary.read(tmp_path) == vocabulary


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "not there"),
        ("[1]", "no JSON object"),
        ('{"a": "x", "b": 1}', "does not number tokens"),
        ('{"<pad>": 0, "a": 2}', "does not number tokens from 0"),
        ('{"a": 0}', "does not number tokens from 0, <pad> among them"),
    ],
)
def test_damaged_vocabularies(tmp_path: Path, content: str | None, match: str) -> None:
    if content is not None:
        (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(EnhanceError, match=match):
        Vocabulary.read(tmp_path)


def plain_distance(a: list[str], b: list[str]) -> int:
    """Wagner and Fischer's table."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0, :] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i, j] = min(
                table[i - 1, j] + 1,
                table[i, j - 1] + 1,
                table[i - 1, j - 1] + (a[i - 1] != b[j - 1]),
            )
    return int(table[-1, -1])


def test_error_rate_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)

    def draw(least: int) -> list[list[str]]:
        return [list(rng.choice(list("abcd"), rng.integers(least, 9))) for _ in range(40)]

    true, said = draw(1), draw(0)
    distances = np.array([plain_distance(a, b) for a, b in zip(true, said, strict=True)])
    lengths = np.array([len(a) for a in true])
    found = score.error_rate(true, said)
    assert (found["errors"], found["tokens"], found["clips"]) == (
        distances.sum(),
        lengths.sum(),
        40,
    )
    assert found["mean"] == pytest.approx(distances.sum() / lengths.sum(), abs=1e-5)
    draws = [rng.integers(40, size=40) for _ in range(4000)]
    again = [distances[d].sum() / lengths[d].sum() for d in draws]
    low, high = np.percentile(again, [2.5, 97.5])
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)
    assert score.error_rate([["a", "b"], ["c"]], [[], ["c", "c", "a", "b"]])["mean"] == 1.66667


def test_references_without_a_token() -> None:
    with pytest.raises(EnhanceError, match="no token"):
        score.error_rate([[]], [["a"]])


def test_the_best_constant_answer() -> None:
    rng = np.random.default_rng(1)
    texts = [list(rng.choice(list("aab"), rng.integers(1, 7))) for _ in range(16)]
    cost = [sum(plain_distance(other, text) for other in texts) for text in texts]
    found = score.best_constant(texts)
    assert found in texts
    assert sum(plain_distance(other, found) for other in texts) == min(cost)
