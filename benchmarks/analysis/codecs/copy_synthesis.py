"""A spoofing task that can be made anywhere: speech and its copy-synthesis, through codecs.

Copy-synthesis takes recorded speech apart into what a vocoder is given, and puts it together again:
same words, same voice, same length, but the waveform is the vocoder's. It is what speech synthesis
does last, so that a detector of it is told here from an easier thing: this is no ASVspoof, and no
figure on it is comparable with one.

Bona fide and synthetic clips have the same speakers, the same level and go through the same codecs
in equal shares, so that neither a voice nor a codec tells the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis.codecs import coding
from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.work import Work
from distill.speaker.data import speech_of
from enhance.audio import read as audio
from enhance.audio.write import write
from enhance.data.corpus.clips import split
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.errors import EnhanceError, require
from enhance.files import atomic_folder

RATE = coding.SAMPLE_RATE
BONAFIDE, SPOOF = "bonafide", "spoof"
LEVEL = 0.05
"""RMS of every clip: -26 dB of full scale, so that no peak is clipped."""
_HOP_MS = 5.0  # WORLD's frames
_FRAMING: dict[str, Any] = {"n_fft": 1024, "hop_length": 256, "power": 1.0}  # Griffin and Lim's


def griffin_lim(wave: np.ndarray, seed: int) -> np.ndarray:
    """From 80 mel bands: their pseudo-inverse, and 32 rounds of Griffin and Lim's (1984) phases.

    Shape: (N,) -> (N,)
    """
    import torch
    from torchaudio.transforms import GriffinLim

    mel, inverse = _mel()
    bands = mel(torch.from_numpy(np.array(wave, np.float32)))  # (80, T)
    spectrum = (inverse @ bands).clamp_min(0.0)  # (F, T)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        phases = GriffinLim(n_iter=32, length=len(wave), **_FRAMING)
        made: np.ndarray = phases(spectrum).numpy()
    return made


@lru_cache(maxsize=1)
def _mel() -> tuple[Any, Any]:
    import torch
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(RATE, n_mels=80, **_FRAMING)
    return mel, torch.linalg.pinv(mel.mel_scale.fb).T


def world(wave: np.ndarray, seed: int) -> np.ndarray:
    """WORLD (Morise et al. 2016), by pyworld: pitch, envelope and aperiodicity of (N,), to (N,)."""
    pyworld = heard.world()
    given = np.ascontiguousarray(wave, np.float64)
    pitch, times = pyworld.dio(given, RATE, frame_period=_HOP_MS)
    pitch = pyworld.stonemask(given, pitch, times, RATE)
    envelope = pyworld.cheaptrick(given, pitch, times, RATE)
    noise = pyworld.d4c(given, pitch, times, RATE)
    made: np.ndarray = pyworld.synthesize(pitch, envelope, noise, RATE, _HOP_MS)
    return np.resize(np.append(made, np.zeros(max(len(wave) - len(made), 0))), len(wave))


def lpc(wave: np.ndarray, seed: int, order: int = 18) -> np.ndarray:
    """Linear prediction excited by pulses or noise, the vocoder of LPC-10 (Atal, Hanauer 1971).

    Frames of 20 ms every 10, the autocorrelation method; pulses at WORLD's pitch where it finds
    one, white noise elsewhere. Shape: (N,) -> (N,)
    """
    from scipy.linalg import solve_toeplitz
    from scipy.signal import lfilter

    pyworld = heard.world()
    hop, size, warm = 160, 320, 160
    padded = np.concatenate([np.zeros(warm), wave, np.zeros(size)]).astype(np.float64)
    pitch, _ = pyworld.dio(padded, RATE, frame_period=_HOP_MS)
    at = np.round(np.arange(len(padded)) * (1000 / RATE / _HOP_MS)).astype(int)
    hertz = pitch[np.minimum(at, len(pitch) - 1)]  # of each sample
    rise = np.diff(np.floor(np.cumsum(hertz / RATE)), prepend=0.0)  # 1 where a period begins
    rough = np.random.default_rng(seed).standard_normal(len(padded))
    source = np.where(hertz > 0, rise * np.sqrt(RATE / np.maximum(hertz, 1.0)), rough)
    window = np.hanning(size + 1)[:-1]  # overlapping by half, they sum to one
    made = np.zeros(len(padded))
    for begin in range(warm, len(padded) - size + 1, hop):
        frame = padded[begin : begin + size] * window
        r = np.array([frame[: size - k] @ frame[k:] for k in range(order + 1)])
        if r[0] <= 1e-9:
            continue
        r[0] *= 1 + 1e-4  # a floor of -40 dB: the equations stay solvable
        taps = solve_toeplitz(r[:-1], r[1:])
        gain = np.sqrt(max(r[0] - taps @ r[1:], 0.0) / (window @ window))
        spoken = lfilter([gain], [1.0, *-taps], source[begin - warm : begin + size])[warm:]
        made[begin : begin + size] += window * spoken
    return made[warm : warm + len(wave)]


METHODS = {"griffin-lim": griffin_lim, "world": world, "lpc": lpc}
"""By name: (clip (N,), seed) to its copy (N,)."""


def make(
    corpus: Path,
    output: Path,
    work: Work,
    *,
    source: str = "",
    methods: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    per_clip: int = 1,
    clips: int = 0,
    held_back: float = 0.3,
    force: bool = False,
) -> Counter[str]:
    """Write a folder: ``audio/``, and the manifests ``train.jsonl`` and ``evaluation.jsonl``.

    A clip's labels are ``label`` (bonafide or spoof), ``method`` (none or one of `METHODS`),
    ``codec`` and ``recording``, the file it was made of. No speaker stands in both manifests, and
    ``held_back`` is the share of them in the second. The folder is made whole or not at all; what
    stands there is replaced by ``force`` alone.

    The speech is of named speakers, of one ``source`` of the corpus or all (empty), and so many
    ``clips`` of it are drawn, all for 0. ``methods`` are vocoders (None: all `METHODS`), ``names``
    codecs (None: `coding.DEFAULT`), of which each version of a clip goes through ``per_clip``. They
    take turns, so that every method meets each alike. The seed of ``work`` draws clips, noise and
    phases.

    Returns the clips by manifest. An `EnhanceError` refuses an unknown method or codec, and a
    corpus without two speakers.
    """
    require("analysis", "av", "pyworld", "torchaudio", "scipy")
    methods, seed = tuple(methods or METHODS), work.seed
    for name in methods:
        if name not in METHODS:
            raise EnhanceError(f"method {name}: unknown; there is {', '.join(METHODS)}")
    chosen = coding.check(names or ())
    if not 1 <= per_clip <= len(chosen):
        raise EnhanceError(f"--per-clip {per_clip}: must be from 1 to the {len(chosen)} codecs")
    found, _ = speech_of(corpus, source, True, work.quiet)
    if 0 < clips < len(found):
        drawn = np.random.default_rng(seed).permutation(len(found))[:clips]
        found = [found[i] for i in sorted(drawn)]
    holds = ("audio", "train.jsonl", "evaluation.jsonl")
    reads = [clip.path for clip in found]
    with atomic_folder(output, holds=holds, reads=reads, force=force) as temporary:
        (temporary / "audio").mkdir()
        version = partial(_versions, temporary.resolve() / "audio", methods, chosen, per_clip, seed)
        made = work.every(version, list(enumerate(found)), "copy-synthesis")
        parts = split([clip for rows in made for clip in rows], held_back, "speaker", seed)
        counts: Counter[str] = Counter()
        for name, part in zip(("train.jsonl", "evaluation.jsonl"), parts, strict=True):
            write_manifest(temporary / name, part)
            counts[name] = len(part)
    return counts


def _versions(
    folder: Path,
    methods: Sequence[str],
    codecs: Sequence[str],
    per_clip: int,
    seed: int,
    numbered: tuple[int, Clip],
) -> list[Clip]:
    """The clip and its copies, each through so many codecs, on disk."""
    number, clip = numbered
    wave = _level(audio.read(clip.path, RATE))
    rows = []
    for turn, method in enumerate(("none", *methods)):
        own = int(np.random.SeedSequence([seed, number, turn]).generate_state(1)[0])
        version = _level(METHODS[method](wave, own)) if method != "none" else wave
        for k in range(per_clip):
            codec = codecs[(number + turn + k) % len(codecs)]
            path = folder / f"{number:06d}-{method}-{codec}.flac"
            write(path, coding.through(version, codec), RATE)
            labels = {
                "label": SPOOF if method != "none" else BONAFIDE,
                "method": method,
                "codec": codec,
                "recording": clip.path.name,
            }
            told = replace(clip, path=path, duration=len(wave) / RATE, labels=labels)
            rows.append(replace(told, sample_rate=RATE, kind="speech"))
    return rows


def _level(wave: np.ndarray) -> np.ndarray:
    loud = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return (wave * (LEVEL / loud if loud > 0 else 1.0)).astype(np.float32)
