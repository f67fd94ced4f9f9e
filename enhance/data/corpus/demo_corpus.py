"""The built-in corpus: synthetic speech and noise from formulas, labelled synthetic everywhere.

It lets every command run where no data are at hand. A model trained on it learns to part the
synthetic voices of `enhance.data.synthetic.voice` from the noises of
`enhance.data.synthetic.noise`; how well it does on people is another question.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from enhance.audio.write import write
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.data.synthetic.noise import NOISES, RATE
from enhance.data.synthetic.voice import Voice, utterance
from enhance.errors import EnhanceError
from enhance.files import atomic_folder, cache_folder, is_file
from enhance.progress import progress_bar

VERSION = 1
"""Raised whenever the formulas change what is made."""
SOURCE = "synthetic"
"""The source of every clip of the corpus."""
_NOISE_SECONDS = 12.0


def make(
    folder: Path | str,
    minutes_speech: float = 12.0,
    minutes_noise: float = 6.0,
    seed: int = 0,
    *,
    speakers: int = 16,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write ``speech/*.flac``, ``noise/*.flac`` and ``manifest.jsonl``, atomically.

    Voices and noises of different seeds have nothing in common but the formulas.

    At least one clip is made for each speaker and each kind of noise. A folder that holds something
    is refused, unless ``force`` replaces it; else it is what comes back.
    """
    if minutes_speech <= 0 or minutes_noise <= 0 or speakers < 1 or seed < 0:
        raise EnhanceError("a synthetic corpus needs positive minutes, speakers and seed")
    folder = Path(folder)
    speech = _speech_plan(minutes_speech * 60, seed, speakers)
    noise_count = max(len(NOISES), round(minutes_noise * 60 / _NOISE_SECONDS))
    noise_seconds = minutes_noise * 60 / noise_count
    holds = ("speech", "noise", "manifest.jsonl")
    with (
        atomic_folder(folder, holds=holds, force=force) as place,
        progress_bar(quiet=quiet) as bar,
    ):
        task = bar.add_task("synthetic corpus", total=len(speech) + noise_count, speed="")
        clips: list[Clip] = []

        def add(name: str, wave: np.ndarray, kind: str, speaker: str, label: str) -> None:
            path = place / kind / f"{name}.flac"
            # The loudest sample sets the level where 16 bits would clip.
            write(path, wave * min(1, 0.99 / np.abs(wave).max()), RATE)
            labels = {"synthetic": "yes", "recording": name, "type": label}
            clips.append(Clip(path, len(wave) / RATE, RATE, kind, SOURCE, speaker, labels))
            bar.update(task, advance=1)

        for number, (speaker, seconds) in enumerate(speech):
            voice = Voice.draw(_generator(seed, 0, speaker))
            wave = utterance(voice, seconds, _generator(seed, 1, number))
            name = f"synthetic-{seed}-{speaker:03d}"
            add(f"{name}-{number:04d}", wave, "speech", name, "voice")
        for number in range(noise_count):
            kind = list(NOISES)[number % len(NOISES)]
            wave = NOISES[kind](round(noise_seconds * RATE), _generator(seed, 2, number))
            add(f"synthetic-{seed}-{kind}-{number:03d}", wave, "noise", "", kind)
        write_manifest(place / "manifest.jsonl", clips)
    return folder


def ensure(*, quiet: bool = False) -> Path:
    """Folder of the built-in training corpus; made on first use, in about 15 s of one core."""
    folder = cache_folder(f"demo-corpus-v{VERSION}")
    return once(folder, lambda: make(folder, 12, 6, 0, quiet=quiet))


def ensure_held_out(seed: int, *, quiet: bool = False) -> Path:
    """Folder of a smaller corpus of other voices and noises, for evaluation."""
    folder = cache_folder(f"demo-corpus-v{VERSION}-seed{seed}")
    return once(folder, lambda: make(folder, 8, 4, seed, speakers=12, quiet=quiet))


def once(folder: Path, making: Callable[[], object]) -> Path:
    """The folder, which ``making`` makes if it has no manifest yet."""
    if not is_file(folder / "manifest.jsonl"):
        # Two processes may get here at once: both make the same, the first one's stays.
        try:
            making()
        except EnhanceError:
            if not is_file(folder / "manifest.jsonl"):
                raise
    return folder


def _speech_plan(total: float, seed: int, speakers: int) -> list[tuple[int, float]]:
    """Speaker and seconds of each utterance: 2 to 7 s, speakers in turn."""
    rng = _generator(seed, 3, 0)
    plan: list[tuple[int, float]] = []
    while total > 0 or len(plan) < speakers:
        seconds = round(float(rng.uniform(2, 7)), 2)
        plan.append((len(plan) % speakers, seconds))
        total -= seconds
    return plan


def _generator(seed: int, what: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([VERSION, seed, what, number]))
