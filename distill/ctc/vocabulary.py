"""What a recogniser writes: characters or whole tokens, and how text is brought to them.

The files are those of transformers' Wav2Vec2CTCTokenizer: ``vocab.json`` numbers the tokens, number
0 is CTC's blank (``<pad>``), ``|`` stands between words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from enhance.errors import EnhanceError
from enhance.files import read_json, write_json

BLANK, UNKNOWN, BOUNDARY = "<pad>", "<unk>", "|"
RESERVED = (BLANK, UNKNOWN, BOUNDARY)
"""Tokens with a meaning of their own."""


def normalise(text: str, units: str) -> str:
    """The text that is learnt.

    ``char``: upper case; letters with their marks, digits and the apostrophe stay, everything
    else (punctuation, hyphens, symbols) separates words. ``word``: tokens as they stand. Both:
    composed Unicode (NFC), one space between words, none at the ends.
    """
    text = unicodedata.normalize("NFC", text)
    if units == "char":
        text = unicodedata.normalize("NFC", text.upper()).replace("’", "'")
        text = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(text.split())


def tokens_of(text: str, units: str) -> list[str]:
    """Tokens of a text: characters, `UNKNOWN` (which a model may say) being one, with `BOUNDARY`
    between words; or words.
    """
    if units == "char":
        return re.findall(f"{UNKNOWN}|.", text.replace(" ", BOUNDARY))
    return text.split()


@dataclass(frozen=True)
class Vocabulary:
    """Numbered tokens."""

    tokens: tuple[str, ...]
    """Token of each number."""
    units: str
    """``char`` or ``word``."""
    blank: int = 0
    """Number of CTC's blank."""

    @classmethod
    def of(cls, texts: Iterable[str], units: str) -> Vocabulary:
        """All tokens of normalised texts, in the order of their code points.

        An `EnhanceError` if a word is one of `RESERVED`.
        """
        found = {token for text in texts for token in tokens_of(text, units)}
        if units == "word" and found.intersection(RESERVED):
            token = min(found.intersection(RESERVED))
            raise EnhanceError(
                f"transcripts: the token {token!r} has a meaning of its own here; write another"
            )
        boundary = (BOUNDARY,) if units == "char" else ()
        return cls((BLANK, UNKNOWN, *boundary, *sorted(found - {BOUNDARY})), units)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Numbers of a normalised text's tokens; `UNKNOWN` where there is none."""
        number = {token: i for i, token in enumerate(self.tokens)}
        return [number.get(token, number[UNKNOWN]) for token in tokens_of(text, self.units)]

    def decode(self, path: Sequence[int]) -> str:
        """Text of a path (one token's number a frame): runs become one token, then blanks go."""
        found = [self.tokens[i] for i, _ in groupby(path) if i != self.blank]
        if self.units == "word":
            return " ".join(found)
        return " ".join("".join(found).replace(BOUNDARY, " ").split())

    def strange(self, texts: Iterable[str]) -> Counter[str]:
        """How often each token that has no number stands in normalised texts."""
        counts = Counter(token for text in texts for token in tokens_of(text, self.units))
        for token in self.tokens:
            counts.pop(token, None)
        return counts

    def write(self, folder: Path) -> None:
        """Write ``vocab.json`` and ``tokenizer_config.json``."""
        write_json(folder / "vocab.json", {token: i for i, token in enumerate(self.tokens)})
        config = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "pad_token": BLANK,
            "unk_token": UNKNOWN,
            "word_delimiter_token": BOUNDARY,
            "replace_word_delimiter_char": " ",
            "bos_token": None,  # transformers would add its own, which the head has no output for
            "eos_token": None,
            "do_lower_case": False,
        }
        write_json(folder / "tokenizer_config.json", config)

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read ``vocab.json``: characters where it has a word boundary, else words.

        An `EnhanceError` if it is missing, or does not number its tokens from 0.
        """
        path = folder / "vocab.json"
        hint = "not there; a recogniser is a folder that `enhance teacher finetune-ctc` wrote"
        numbers = read_json(path, hint)
        try:
            tokens = sorted(numbers, key=numbers.__getitem__)
            whole = [numbers[token] for token in tokens] == list(range(len(tokens)))
        except TypeError:  # numbers and others
            whole = False
        if not whole or BLANK not in tokens:
            raise EnhanceError(f"{path}: does not number tokens from 0, {BLANK} among them")
        units = "char" if BOUNDARY in tokens else "word"
        return cls(tuple(tokens), units, tokens.index(BLANK))
