"""Banks of room impulse responses: simulated (image sources), or read from a folder.

The direct path is the largest sample. Speech convolved with a response is shifted back by the
direct path's delay, so that dry speech, reverberant speech and the early target line up to the
sample. The early part ends ``early_ms`` after the direct path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enhance.config.mixing import MixingConfig
from enhance.data.corpus.manifest import scan_folder
from enhance.errors import EnhanceError, require
from enhance.files import expanded
from enhance.progress import tracked

_DRIEST = 0.1
"""Seconds: hardly a room of those sizes is drier by Sabine's formula, and none at 0.07."""
_LARGEST_ORDER = 40  # reflections; later ones are below what noise leaves audible


@dataclass(frozen=True)
class Response:
    """One room impulse response."""

    wave: np.ndarray
    """Float32 (n,), largest magnitude 1."""
    direct: int
    """Sample of the direct path."""

    def early(self, samples: int) -> np.ndarray:
        """The response up to ``samples`` after the direct path, float32."""
        return self.wave[: self.direct + samples + 1]

    def distant(self, samples: int, db: float) -> Response:
        """The same with `early` at ``db``, as of someone farther away."""
        wave = self.wave.copy()
        wave[: self.direct + samples + 1] *= np.float32(10 ** (db / 20))
        return Response(wave, self.direct)


def bank(
    config: MixingConfig,
    rirs: Path | str,
    seed: int,
    sample_rate: int = 16000,
    *,
    quiet: bool = False,
) -> list[Response]:
    """Room impulse responses that a configuration asks for; none if it asks for none. An
    `EnhanceError` if it asks for those of a folder and ``rirs`` names none, if ``rirs`` names one
    that it does not ask for, or they cannot be read.
    """
    if rirs and config.rir_source != "folder":
        raise EnhanceError(
            f"data.rirs: {rirs}, but mixing.rir_source is `{config.rir_source}`; set that to folder"
        )
    if config.rir_probability == 0 and config.noise_rir_probability == 0:
        return []
    if config.rir_source == "folder":
        if not rirs:
            raise EnhanceError("mixing.rir_source is `folder`: name the folder in data.rirs")
        return folder_bank(expanded(rirs), sample_rate, quiet=quiet)
    return simulated_bank(config.rir_count, seed, sample_rate, config.rir_rt60, quiet=quiet)


def simulated_bank(
    count: int,
    seed: int,
    sample_rate: int = 16000,
    rt60: tuple[float, float] = (0.15, 0.6),
    *,
    quiet: bool = False,
) -> list[Response]:
    """Responses of box-shaped rooms by the image-source method of pyroomacoustics.

    Rooms measure 3 to 8 by 3 to 7 by 2.4 to 3.5 metres; speaker and microphone stand at least
    0.3 m from every wall and 0.3 to 3 m apart. The reverberation time is drawn from ``rt60``
    (seconds, Sabine's formula); an `EnhanceError` if no room is that dry. Response i depends on
    (seed, i) alone.
    """
    if rt60[1] < _DRIEST:
        raise EnhanceError(
            f"mixing.rir_rt60: {list(rt60)}: no room is that dry; end it at {_DRIEST} or more"
        )
    require("train", "pyroomacoustics")
    import pyroomacoustics

    # Sums in one order whatever the machine, so that the same seed gives the same bank.
    pyroomacoustics.constants.set("num_threads", 1)
    return [
        _simulate(np.random.default_rng(np.random.SeedSequence([seed, i])), sample_rate, rt60)
        for i in tracked(range(count), "simulating rooms", count, quiet=quiet)
    ]


def folder_bank(
    folder: Path | str, sample_rate: int = 16000, *, quiet: bool = False
) -> list[Response]:
    """Responses from the audio files below a folder, first channel, resampled; an `EnhanceError`
    if the folder is missing, or holds no response, or one is silent."""
    from enhance.audio import read as audio

    clips, problems = scan_folder(folder, quiet=quiet)
    if problems:
        raise EnhanceError(f"{folder}: {len(problems)} responses unreadable, first: {problems[0]}")
    if not clips:
        raise EnhanceError(f"{folder}: holds no room impulse response (no audio file)")
    bank = []
    for clip in clips:
        wave = audio.read(clip.path, sample_rate, mono=False)[0]
        if not np.abs(wave).max() > 0:
            raise EnhanceError(f"{clip.path}: a silent file is no room impulse response")
        bank.append(_response(wave, sample_rate))
    return bank


def tail(seed: int, sample_rate: int = 16000) -> Response:
    """A response by chance: Gaussian noise that dies away by 60 dB in 0.3 to 1.2 s, duller with
    time, after a direct path that holds half its energy."""
    rng = np.random.default_rng(seed)
    rt60 = rng.uniform(0.3, 1.2)
    wave = rng.standard_normal(round(rt60 * sample_rate), np.float32)
    fall = np.arange(len(wave), dtype=np.float32) * np.float32(-6.9 / len(wave))
    wave[1:] += wave[:-1].copy()  # a gentle low-pass, as of air and curtains
    wave *= np.exp(fall, out=fall)
    wave[0] = np.sqrt(np.square(wave[1:]).sum())
    return Response(wave / wave[0], 0)


def _simulate(rng: np.random.Generator, sample_rate: int, rt60: tuple[float, float]) -> Response:
    import pyroomacoustics

    while True:
        size = rng.uniform([3, 3, 2.4], [8, 7, 3.5])
        try:
            absorption, order = pyroomacoustics.inverse_sabine(rng.uniform(*rt60), size)
        except ValueError:  # a room that large cannot be that dry
            continue
        talker, microphone = rng.uniform(0.3, size - 0.3, (2, 3))
        if 0.3 <= np.linalg.norm(talker - microphone) <= 3:
            break
    room = pyroomacoustics.ShoeBox(
        size,
        fs=sample_rate,
        materials=pyroomacoustics.Material(absorption),
        max_order=min(order, _LARGEST_ORDER),
    )
    room.add_source(talker)
    room.add_microphone(microphone)
    room.compute_rir()
    return _response(room.rir[0][0], sample_rate)


def _response(wave: np.ndarray, sample_rate: int) -> Response:
    direct = int(np.abs(wave).argmax())
    wave = wave / np.abs(wave[direct])
    # Cut the tail where what follows holds less than a millionth of the energy (-60 dB).
    after = np.cumsum(np.square(wave[::-1]))[::-1]
    end = max(int(np.count_nonzero(after > 1e-6 * after[0])), direct + 1)
    start = max(0, direct - sample_rate // 200)  # keep 5 ms before: interpolation rings there
    return Response(np.ascontiguousarray(wave[start:end], np.float32), direct - start)
