"""The questions of one task on one corpus: of clips, mixtures, or frames with a phone or pitch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.heard import SAMPLE_RATE
from benchmarks.analysis.parts.phones import label_at, read_phones
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.tasks import TASKS, Data, Task, column, drawn, fold_of, of_clips
from distill.speaker.data import name_of, speech_of
from enhance.audio.write import write
from enhance.config.mixing import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.data.mixing.mixer import Mixer
from enhance.errors import EnhanceError, require
from enhance.files import atomic_folder
from enhance.progress import progress_bar, tracked

_SNR, _SECONDS, _FOLDS = (-5.0, 20.0), 4.0, 3  # of mixtures
_GRID = (-80, 320, 400)  # where frames of wav2vec 2.0 and its kin lie: offset, stride, field


def read(
    name: str,
    corpus: Path,
    work: Work,
    *,
    label: str = "",
    group: str = "",
    trials: Path | None = None,
    frames: int = 20_000,
    folder: Path,
) -> Data:
    """Questions of one task, a name of `TASKS`, on one corpus: a folder or manifest, for ``phone``
    as `benchmarks.analysis.parts.phones.read_phones` has it.

    The limit of ``work`` is of clips drawn class by class and group by group in turn, and of
    mixtures, 600 where there is none; these are written to ``folder``. ``label`` and ``group`` are
    columns instead of the task's own. ``trials``, for ``verification``, has lines of 1 (one
    speaker) or 0 and two paths, as in VoxCeleb. There are at most so many ``frames`` in all,
    rounded up to as many of each clip, evenly over its labelled ones. An `EnhanceError` says that a
    label or a group is missing, or that a split without a leak is impossible.
    """
    if name not in TASKS:
        raise EnhanceError(f"--task {name}: unknown; take {', '.join(TASKS)}")
    task = TASKS[name]
    task = replace(task, label=label or task.label, group=group or task.group)
    if not task.label:
        raise EnhanceError("--task label: name the column with --label")
    if task.mixed and group:
        raise EnhanceError(f"--group: mixtures of --task {name} are parted by speaker and noise")
    if trials is not None and name != "verification":
        raise EnhanceError(f"--trials: only --task verification takes them, not {name}")
    if task.mixed:
        kinds = task.label if name == "noise" else ""
        corpus = mixtures(corpus, folder, kinds, work=replace(work, limit=work.limit or 600))
        task, work = replace(task, label="type" if kinds else task.label), replace(work, limit=0)
    if task.frames:
        return of_frames(name, task, corpus, frames, work)
    clips, _ = speech_of(corpus, "", False, work.quiet)
    data = of_clips(task, clips, work.limit, work.seed, f"{corpus}")
    return replace(data, trials=read_trials(trials, data.clips)) if trials else data


def read_trials(path: Path, clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """Trials as numbers of clips: lines of 1 or 0 and two paths, each the end of one clip's.

    An `EnhanceError` names a line that is none, names no clip, or says otherwise than the manifest.
    """
    ends: dict[str, int] = {}
    for i, clip in enumerate(clips):
        parts = clip.path.parts
        ends |= {"/".join(parts[k:]): i for k in range(1, len(parts))}
    found = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{path}: no list of trials ({error})") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise EnhanceError(f"{path}, line {number}: write 1 or 0, and two paths")
        missing = [word for word in words[1:] if word not in ends]
        if missing:
            raise EnhanceError(
                f"{path}, line {number}: {missing[0]} is none of the {len(clips)} clips taken; a "
                "speaker of a single clip is left out, and what --limit does not draw"
            )
        a, b = ends[words[1]], ends[words[2]]
        if (name_of(clips[a]) == name_of(clips[b])) != (words[0] == "1"):
            raise EnhanceError(f"{path}, line {number}: the manifest's speakers say otherwise")
        found.append((a, b))
    if not found:
        raise EnhanceError(f"{path}: holds no trial")
    first, second = np.array(found).T
    return first, second


def of_frames(name: str, task: Task, corpus: Path, frames: int, work: Work) -> Data:
    """One question a frame, for ``phone`` and ``pitch``: see `benchmarks.analysis.probes.read`.

    Times are labelled, not frames of one model: each model answers with its nearest frame.
    """
    classes: list[str] = []
    if name == "phone":
        clips, spans, classes = read_phones(corpus)
    else:
        require("analysis", "pyworld")
        clips, _ = speech_of(corpus, "", False, work.quiet)
    groups = column(clips, task.group)
    known = [i for i, group in enumerate(groups) if group]
    keep = drawn(known, groups, work.limit, work.seed)
    quota = -(-frames // max(len(keep), 1))
    chosen, times, labels = [], [], []
    offset, stride, width = _GRID
    for i in tracked(keep, f"labels: {name}", len(keep), quiet=work.quiet):
        count = int(min(clips[i].duration, heard.MOST_SECONDS) * SAMPLE_RATE) // stride
        seconds = (np.arange(count) * stride + offset + width / 2) / SAMPLE_RATE
        if name == "phone":
            found = label_at(spans[i], seconds).astype(float)
            found[found < 0] = np.nan
        else:
            found = pitch_at(heard.wave_of(clips[i].path), seconds)
        spoken = heard.evenly(np.flatnonzero(~np.isnan(found)), quota)
        if len(spoken):
            chosen.append(i)
            times.append(seconds[spoken])
            labels.append(found[spoken])
    if len({groups[i] for i in chosen}) < 2:
        raise EnhanceError(
            f"{corpus}: labelled frames of fewer than two values of {task.group}; a probe is "
            "tested on others than it was trained on: name more data, or another --group"
        )
    values, left = np.concatenate(labels), len(clips) - len(chosen)
    return Data(
        task,
        [clips[i] for i in chosen],
        values.astype(int) if classes else values,
        np.repeat(np.arange(len(chosen)), [len(own) for own in labels]),
        classes,
        [groups[i] for i in chosen],
        times=times,
        notes=[f"{left} clips without {task.group}, label, or beyond the limit"] if left else [],
    )


def pitch_at(wave: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Pitch at each time in semitones (12 log2 of hertz), NaN where nothing is voiced.

    F0 by DIO, refined by StoneMask (Morise, Kawahara and Katayose 2009; WORLD).

    Shape: (N,) at 16 kHz, (T,) to (T,).
    """
    pyworld = heard.world()
    samples = wave.astype(np.float64)
    coarse, at = pyworld.dio(samples, SAMPLE_RATE, frame_period=5.0)
    f0 = pyworld.stonemask(samples, coarse, at, SAMPLE_RATE)
    nearest = np.clip(np.round(seconds / 0.005).astype(int), 0, len(f0) - 1)
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.where(f0 > 0, 12 * np.log2(f0), np.nan)[nearest]
    return found


def mixtures(corpus: Path, folder: Path, kinds: str, work: Work) -> Path:
    """Write labelled mixtures of a corpus: SNR uniform in -5 to 20 dB, 4 s, one noise each.

    Speakers and recordings of noise are parted into folds first: a fold is mixed of its own. The
    manifest that is returned has the columns ``snr_db``, ``type`` (what the column ``kinds`` tells
    of the noise; empty for none), ``noise_name`` and ``fold``. What stands in the folder is
    replaced. The limit of ``work`` is the number of mixtures, its seed decides every sample.

    An `EnhanceError` refuses a corpus of no noise, or of too few speakers, recordings or kinds.
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
        chosen_noise = drawn(range(len(noise)), column(noise, "source"), count, seed)
        noise = [noise[i] for i in chosen_noise]
        labels, strata = [""] * len(noise), np.zeros(len(noise), int)
    speakers = column(speech, "speaker")
    keep = drawn(range(len(speech)), speakers, count, seed)
    speech, speakers = [speech[i] for i in keep], [speakers[i] for i in keep]
    spoken = fold_of(speakers, np.zeros(len(speech), int), _FOLDS, seed)
    noisy = fold_of(column(noise, "recording"), strata, _FOLDS, seed)
    kind_of = {str(clip.path): label for clip, label in zip(noise, labels, strict=True)}
    made: list[Clip] = []
    opened = atomic_folder(folder, holds=("manifest.jsonl", "*.flac"), force=True)
    with opened as place, progress_bar(quiet=work.quiet) as bar:
        task = bar.add_task("mixtures", total=count, speed="")
        folds = int(min(spoken.max(), noisy.max())) + 1
        for k in range(folds):
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
