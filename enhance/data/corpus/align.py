"""Phones of recordings with PocketSphinx: a corpus for the phone probe from any English speech.

Where the text is known it is aligned by force. Where it is not, words are recognised first: of a
given list (each as likely as the others, in any order), or of the language model that comes with
PocketSphinx. Either way a second pass finds the phones of the words, in ARPAbet, on a 10 ms grid.
Such labels are a machine's, and those of recognised words are as wrong as the words; speech that a
given text leaves out is called silence.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from enhance.audio.read import read
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError, require
from enhance.files import atomic_folder, temporary_folder
from enhance.parallel import Workers

SAMPLE_RATE = 16000
_FRAMES_PER_SECOND = 100
_FIELDS = ("path", "seconds", "source", "speaker", "language", "text")
_PHONES = ("file", "start_s", "end_s", "phone", "phone_base")

Phone = tuple[float, float, str]
"""Start and end in seconds, and the name; ``SIL`` where nothing is said."""


def normalise(text: str) -> str:
    """Words as the dictionary has them: lower case, letters and apostrophes."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def unigrams(words: Sequence[str]) -> str:
    """ARPA language model in which each word, and the end, is as likely as the others."""
    each = math.log10(1 / (len(words) + 1))
    lines = ["-99 <s> 0", *(f"{each:.5f} {word}" for word in ("</s>", *words))]
    return f"\\data\\\nngram 1={len(lines)}\n\n\\1-grams:\n" + "\n".join(lines) + "\n\n\\end\\\n"


@lru_cache(maxsize=1)
def _decoder(words: tuple[str, ...]) -> Any:
    from pocketsphinx import Decoder

    # Each recording's own cepstral mean: the same labels whatever was heard before.
    settings = {"loglevel": "FATAL", "cmn": "batch"}
    if not words:
        return Decoder(**settings)
    known = Decoder(lm=None, **settings)
    strange = [word for word in words if known.lookup_word(word) is None]
    if strange:
        raise EnhanceError(f"--words: {strange[0]!r} is not in PocketSphinx's dictionary")
    with temporary_folder() as folder:
        (folder / "words.lm").write_text(unigrams(words), "ascii")
        return Decoder(lm=str(folder / "words.lm"), **settings)


def phones_of(words: tuple[str, ...], item: tuple[Path, str]) -> tuple[str, list[Phone]] | str:
    """Words and phones of one recording (its file and text), or why there are none.

    Without a text ``words`` are recognised, or those of the language model where there are none.
    """
    path, text = item
    samples = np.clip(read(path, SAMPLE_RATE) * 32768, -32768, 32767).astype("<i2").tobytes()
    text, decoder = normalise(text), _decoder(words)
    strange = [word for word in text.split() if decoder.lookup_word(word) is None]
    if strange:
        return f"{path}: {strange[0]!r} is not in PocketSphinx's dictionary"

    def hear() -> None:
        decoder.start_utt()
        decoder.process_raw(samples, full_utt=True)
        decoder.end_utt()

    try:
        if text:
            decoder.set_align_text(text)
        else:
            decoder.activate_search()
        hear()
        found = decoder.hyp()
        if found is None or not found.hypstr:
            return f"{path}: no word was recognised"
        decoder.set_alignment()
        hear()
        aligned = [phone for word in decoder.get_alignment() for phone in word]
    except RuntimeError as error:
        # The decoder is left in the middle of a clip: the next one takes a fresh one.
        _decoder.cache_clear()
        why = "its text does not fit" if text else error
        return f"{path}: cannot be aligned ({why})"
    spans = [
        (
            phone.start / _FRAMES_PER_SECOND,
            (phone.start + phone.duration) / _FRAMES_PER_SECOND,
            "SIL" if phone.name.startswith("+") else phone.name,
        )
        for phone in aligned
    ]
    return found.hypstr, spans


def align(
    clips: Sequence[Clip],
    out: Path,
    *,
    texts: Mapping[Path, str] | None = None,
    words: Sequence[str] = (),
    workers: Workers = Workers(),  # noqa: B008  (frozen)
    force: bool = False,
) -> list[str]:
    """Write ``phones.csv`` and ``manifest.csv`` (with the column ``text``) of English clips.

    The folder ``out`` is what `benchmarks.analysis.parts.phones.read_phones` reads; ``force``
    replaces what stands there. ``texts`` say what is said, by path: only these clips are taken.
    None recognises all, or ``words`` only. Returns one line for each clip left out. An
    `EnhanceError` if PocketSphinx is missing, ``out`` stands there, or nothing could be aligned.
    """
    require("analysis", "pocketsphinx")
    chosen = [clip for clip in clips if texts is None or clip.path in texts]
    if not chosen:
        raise EnhanceError("no clip of the manifest has a text; paths must be the same files")
    items = [(clip.path, texts[clip.path] if texts else "") for clip in chosen]
    work = partial(phones_of, tuple(dict.fromkeys(normalise(" ".join(words)).split())))
    holds, reads = ("manifest.csv", "phones.csv"), [path for path, _ in items]
    with atomic_folder(out, holds=holds, reads=reads, force=force) as place:
        found = workers.every(work, items, "aligning")
        problems = [result for result in found if isinstance(result, str)]
        if len(problems) == len(found):
            raise EnhanceError(f"none of {len(found)} clips could be aligned; first: {problems[0]}")
        # Both folders have one parent, so that relative paths hold after the renaming.
        rows, spans = [], []
        for clip, result in zip(chosen, found, strict=True):
            if not isinstance(result, str):
                text, phones = result
                name = os.path.relpath(clip.path, place)
                told = (clip.source, clip.speaker, clip.labels.get("language", "en"), text)
                rows.append((name, f"{clip.duration:.3f}", *told))
                spans += [(name, f"{a:.2f}", f"{b:.2f}", p, p) for a, b, p in phones]
        for file, head, lines in (("manifest", _FIELDS, rows), ("phones", _PHONES, spans)):
            with (place / f"{file}.csv").open("w", encoding="utf-8", newline="") as table:
                csv.writer(table).writerows([head, *lines])
    return problems
