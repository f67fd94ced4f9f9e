"""Text of speech from a fine-tuned model: `load(folder).transcribe(wave)`.

Greedy decoding: the likeliest token of each frame, runs made one, blanks left out. No language
model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from distill.ctc import folder as ctc_folder
from distill.ctc.model import SAMPLE_RATE, CtcModel
from distill.ctc.vocabulary import Vocabulary
from enhance.errors import EnhanceError, require
from enhance.files import expanded


class Recognizer:
    """A model in eval mode and its vocabulary; ``name`` is how it was asked for."""

    sample_rate = SAMPLE_RATE

    def __init__(self, name: str, model: CtcModel, vocabulary: Vocabulary) -> None:
        self.name, self.model, self.vocabulary = name, model, vocabulary

    def transcribe(self, wave: np.ndarray) -> str:
        """What is said in a wave (N,) at 16 kHz: words, or tokens parted by spaces.

        The whole of it is heard at once: memory grows with the square of its length. Under 25 ms
        the text is empty. An `EnhanceError` if the wave is not (N,), or holds a sample that is not
        finite.
        """
        wave = np.asarray(wave, np.float32)
        if wave.ndim != 1:
            raise EnhanceError(f"{self.name}: hears one channel (N,), not {wave.shape}")
        if not np.isfinite(wave).all():
            raise EnhanceError(f"{self.name}: the wave holds samples that are not finite")
        if not self.model.frames(len(wave)):
            return ""
        with torch.no_grad():
            return self.vocabulary.decode(self.model([wave])[0].argmax(dim=-1).tolist())


def load(folder: Path | str) -> Recognizer:
    """Load a folder that `enhance teacher finetune-ctc` wrote, or a CTC model like it.

    An `EnhanceError` if it holds no such model.
    """
    require("train", "torch", "transformers", "safetensors")
    return Recognizer(str(folder), *ctc_folder.load(expanded(folder)))
