"""Labelled mixtures, whose folds share neither a speaker nor a recording of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.analysis.parts.heard import SAMPLE_RATE
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.tasks import Task, column, drawn, fold_of, of_clips
from distill.speaker.data import speech_of
from enhance.audio.write import write
from enhance.config.mixing import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.data.mixing.mixer import Mixer
from enhance.errors import EnhanceError
from enhance.files import atomic_folder
from enhance.progress import progress_bar

_SNR = (-5.0, 20.0)
_SECONDS = 4.0


def mixtures(corpus: Path, folder: Path, kinds: str, work: Work, folds: int = 3) -> Path:
    """Write labelled mixtures of a corpus: SNR uniform in -5 to 20 dB, 4 s, one noise each.

    Speakers and recordings of noise are parted into folds first: a fold is mixed of its own. The
    manifest that is returned has the columns ``snr_db``, ``type``, ``noise_name`` and ``fold``.

    Parameters
    ----------
    corpus
        With speech of known speakers, and noise.
    folder
        To be made; what stands there is replaced.
    kinds
        Column of the noises that tells their kind (``type`` of the result); empty for none.
    work
        Its limit is the number of mixtures, its seed decides every sample.

    Raises
    ------
    EnhanceError
        If there is no noise, or too few speakers, recordings or kinds.
    """
    count, seed = work.limit, work.seed
    speech, noise = speech_of(corpus, "", True, work.quiet)
    if not noise:
        raise EnhanceError(f"{corpus}: no noise there (column `kind`); mixtures need some")
    folder = folder.resolve()
    config = MixingConfig(
        snr=_SNR,
        segment_seconds=_SECONDS,
        silence_probability=0,
        noise_switch_probability=0,
        noise_layer_probability=0,
    )
    if kinds:
        chosen = of_clips(Task(kinds, "recording"), noise, count, seed, f"{corpus}")
        noise, labels, strata = chosen.clips, column(chosen.clips, kinds), chosen.labels
    else:
        noise = [noise[i] for i in drawn(list(range(len(noise))), [""] * len(noise),
                                          column(noise, "source"), count, seed)]  # fmt: skip
        labels, strata = [""] * len(noise), np.zeros(len(noise), int)
    speakers = column(speech, "speaker")
    keep = drawn(list(range(len(speech))), [""] * len(speech), speakers, count, seed)
    speech, speakers = [speech[i] for i in keep], [speakers[i] for i in keep]
    spoken = fold_of(speakers, np.zeros(len(speech), int), folds, seed)
    noisy = fold_of(column(noise, "recording"), strata, folds, seed)
    kind_of = {str(clip.path): label for clip, label in zip(noise, labels, strict=True)}
    made: list[Clip] = []
    opened = atomic_folder(folder, holds=("manifest.jsonl", "*.flac"), force=True)
    with opened as place, progress_bar(quiet=work.quiet) as bar:
        task = bar.add_task("mixtures", total=count, speed="")
        for k in range(int(min(spoken.max(), noisy.max())) + 1):
            voices, noises = (
                ClipStore(
                    [c for c, f in zip(clips, part, strict=True) if f == k],
                    SAMPLE_RATE,
                    cache_mb=0,
                    quiet=True,
                )
                for clips, part in ((speech, spoken), (noise, noisy))
            )
            mixer = Mixer(voices, noises, config, seed)
            for index in range(count * k // folds, count * (k + 1) // folds):
                recipe = mixer.draw(k, index)
                mixture = mixer.render(recipe)
                path = place / f"{index:05d}.flac"
                write(path, mixture.noisy, SAMPLE_RATE)
                source = next(name for name in mixture.files if name in kind_of)
                tells = {
                    "snr_db": f"{mixture.snr_db:.4f}",
                    "type": kind_of[source],
                    "noise_name": Path(source).stem,
                    "fold": f"fold {k}",
                }
                speaker = voices.clips[recipe.speech[0].clip].speaker
                made.append(Clip(path, _SECONDS, SAMPLE_RATE, "speech", "mixtures", speaker, tells))
                bar.update(task, advance=1)
        write_manifest(place / "manifest.jsonl", made)
    return folder / "manifest.jsonl"
