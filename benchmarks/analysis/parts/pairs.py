"""Clips, clean and noisy: of a corpus whose noise is mixed in, or of a set of pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.work import Work
from distill.speaker.data import speech_of
from distill.ssl.data.crops import Disturbance, disturb
from enhance.audio import read as audio
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.inventory import by_source
from enhance.data.corpus.manifest import Clip
from enhance.data.evaluation_set import open_set
from enhance.errors import EnhanceError
from enhance.files import expanded

SHORTEST = 0.6
"""Seconds; shorter clips are left out."""


@dataclass(frozen=True)
class Item:
    """A clip, and how it is made noisy."""

    clean: Path
    """Its file."""
    labels: dict[str, str]
    """Speaker and noise, for clusters."""
    noisy: Path | None = None
    """The noisy file of a set."""
    noise: int = 0
    """Else the number of the recording of noise that is mixed in."""
    seed: tuple[int, ...] = ()
    """Of the place in it."""


@dataclass(frozen=True)
class Pairs:
    """Clips, and in what they are heard beside clean."""

    items: list[Item]
    """The clips."""
    snrs: list[float | None]
    """Of each noisy condition, dB; None where pairs have one each that nobody told."""
    noise: ClipStore | None
    """What is mixed in."""
    about: dict[str, Any]
    """Speech and noise, for a record."""

    @classmethod
    def open(
        cls, corpus: Path | None, pairs: Path | None, snrs: Sequence[float], work: Work
    ) -> Pairs:
        """Draw clips of `SHORTEST` seconds or more, as `heard.draw`.

        They are of a ``corpus``, manifest or folder of speech and noise, or of ``pairs``, a folder
        with ``clean/`` and ``noisy/``. Into clips of a corpus noise is mixed at each of ``snrs``,
        dB: one recording for each clip, the same at every SNR. An `EnhanceError` refuses both or
        none, and fewer than two such clips.
        """
        if (corpus is None) == (pairs is None):
            both = "" if corpus is None else ", not both"
            raise EnhanceError(
                f"name clips: --corpus DIR with speech and noise, or --set DIR{both}"
            )
        place = expanded(pairs or corpus or Path())
        clips, noises = (_of_set(place), []) if pairs else speech_of(place, "", False, work.quiet)
        clips = heard.draw([c for c in clips if c.duration >= SHORTEST], work, place)
        labels = [{**c.labels, "speaker": c.speaker, "source": c.source} for c in clips]
        about: dict[str, Any] = {"speech": by_source(clips)}
        if pairs:
            told = {own.get("snr_db", "") for own in labels}
            one = None
            with contextlib.suppress(ValueError):  # not told, or in words
                one = float(told.pop()) if len(told) == 1 else None
            items = [
                Item(c.path, own, Path(own["noisy"])) for c, own in zip(clips, labels, strict=True)
            ]
            return cls(items, [one], None, {**about, "set": place.name})
        if not noises:
            raise EnhanceError(f"{place}: no noise there (column `kind` of its manifest)")
        draws = [np.random.default_rng([work.seed, 1, i]) for i in range(len(clips))]
        used, drawn = np.unique([x.integers(len(noises)) for x in draws], return_inverse=True)
        noises = [noises[k] for k in used]  # the others need not be decoded
        store = ClipStore(noises, heard.SAMPLE_RATE, 500, name="noise", quiet=work.quiet)
        items = []
        for i, (clip, own) in enumerate(zip(clips, labels, strict=True)):
            own["noise_name"] = noises[drawn[i]].recordings[0]
            items.append(Item(clip.path, own, None, int(drawn[i]), (work.seed, 2, i)))
        return cls(items, list(snrs), store, {**about, "noise": by_source(noises)})


def _of_set(folder: Path) -> list[Clip]:
    return [
        Clip(clean, audio.info(clean).duration, 0, "speech", labels.get("source", ""),
             labels.get("speaker", ""), {**labels, "noisy": str(noisy)})
        for _, clean, noisy, labels in open_set(folder).pairs
    ]  # fmt: skip


def waves(noise: ClipStore | None, snrs: Sequence[float | None], item: Item) -> list[np.ndarray]:
    """A clip at 16 kHz, clean and in each condition of its `Pairs`, float32 (N,) each.

    An `EnhanceError` names a file that cannot be read, or a pair that is not equally long.
    """
    clean = heard.wave_of(item.clean)
    if item.noisy is not None:
        noisy = heard.wave_of(item.noisy)
        if len(noisy) != len(clean):
            raise EnhanceError(f"{item.noisy}: not as long as its clean file")
        return [clean, noisy]
    found = [clean]
    for snr in snrs:
        assert snr is not None
        always = Disturbance(noise_probability=1, noise_snr=(snr, snr), speech_probability=0)
        rng = np.random.default_rng(item.seed)  # the same piece of noise at each SNR
        found.append(disturb(clean[None], noise, [item.noise], always, rng)[0])
    return found
