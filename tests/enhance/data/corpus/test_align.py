"""Phones by PocketSphinx: on a voice that needs no corpus, the model's own files are enough."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.analysis.parts.phones import read_phones
from enhance.data.corpus import align as tool
from enhance.data.corpus.align import align, normalise, phones_of, unigrams
from enhance.data.corpus.manifest import Clip, read_manifest
from enhance.errors import EnhanceError
from enhance.parallel import Workers


def test_words_and_their_model() -> None:
    assert normalise("It's  TWO, o'clock!") == "it's two o'clock"
    lines = unigrams(["yes", "no"]).splitlines()
    assert lines[:2] == ["\\data\\", "ngram 1=4"]
    assert lines[4:8] == ["-99 <s> 0", "-0.47712 </s>", "-0.47712 yes", "-0.47712 no"]


def test_what_is_written_is_what_the_probe_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pocketsphinx")
    clips = []
    for name in ("a", "b"):
        path = tmp_path / "speech" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(16000), 16000)
        clips.append(Clip(path, 1.0, 16000, "speech", "here", f"s-{name}"))
    answers = {
        "a.wav": ("go", [(0.0, 0.4, "SIL"), (0.4, 0.5, "G"), (0.5, 0.8, "OW")]),
        "b.wav": "b.wav: no word was recognised",
    }
    monkeypatch.setattr(tool, "phones_of", lambda words, item: answers[item[0].name])
    out = tmp_path / "deep" / "aligned"
    out.parent.mkdir()
    assert align(clips, out, workers=Workers(quiet=True)) == ["b.wav: no word was recognised"]
    found, spans, phones = read_phones(out)
    assert [clip.path for clip in found] == [clips[0].path] and found[0].speaker == "s-a"
    assert phones == ["G", "OW"] and spans == [[(0.4, 0.5, 0), (0.5, 0.8, 1)]]
    assert next(csv.DictReader((out / "manifest.csv").open()))["text"] == "go"
    with pytest.raises(EnhanceError, match="no clip of the manifest has a text"):
        align(clips, tmp_path / "other", texts={}, workers=Workers(quiet=True))
    answers["a.wav"] = "a.wav: cannot be aligned"
    with pytest.raises(EnhanceError, match=r"none of 2 .* first: a\.wav"):
        align(clips, tmp_path / "other", workers=Workers(quiet=True))
    assert not (tmp_path / "other").exists()


def test_a_real_word_by_force_and_recognised(corpus: Path) -> None:
    pytest.importorskip("pocketsphinx")
    path = corpus / "dev/clean/150.flac"  # "no. enter nine one six nine", and half a letter
    words = ("no", "yes", "enter", "one", "six", "nine", "eight")
    text, spans = phones_of(words, (path, ""))
    assert text.split()[:6] == ["no", "enter", "nine", "one", "six", "nine"]
    names = [name for _, _, name in spans if name != "SIL"]
    assert names[:5] == ["N", "OW", "EH", "N", "T"]
    assert all(a < b for a, b, _ in spans)
    clip = next(c for c in read_manifest(corpus / "dev/manifest.csv") if c.path == path.resolve())
    assert spans[-1][1] <= clip.duration
    forced, again = phones_of(words, (corpus / "train/speech/an4_fash_0001.opus", "yes"))
    assert forced == "yes" and [n for _, _, n in again if n != "SIL"] == ["Y", "EH", "S"]
    assert "'xyzzyq' is not in" in str(phones_of(words, (path, "no xyzzyq")))
    assert phones_of(words, (path, ""))[0] == text  # as before the forced ones
