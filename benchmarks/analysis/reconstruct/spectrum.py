"""The spectrum that is reconstructed: decibels of an STFT, back to a waveform, energy by band.

Window 32 ms, hop 8 ms: three quarters overlap, so that the magnitudes alone determine the waveform
up to its sign in practice, and Griffin-Lim (Griffin and Lim 1984; in the faster form of Perraudin,
Balazs and Soendergaard 2013, by torchaudio) has something to agree on.

A clip is brought to a root mean square of 1 first, because most teachers normalise what they hear:
nothing in their features tells the level. The window is scaled so that white noise of that level
has a mean power of 1 in every bin: 0 dB is the mean of the clip, whatever its length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distill.teacher.frames import FrameGrid

SAMPLE_RATE = 16000
WINDOW = 512
HOP = 128
BINS = WINDOW // 2 + 1
GRID = FrameGrid(-WINDOW // 2, HOP, WINDOW)
"""Frame t is centred on sample 128 t."""
FLOOR = 1e-3
"""Added to magnitudes before the logarithm: what lies 60 dB under the clip's mean is nothing."""
BANDS = ((0, 1000), (1000, 2000), (2000, 4000), (4000, 8000))
"""Hz; the last includes 8000."""
NAMES = tuple(f"{low // 1000}-{high // 1000} kHz" for low, high in BANDS)
ITERATIONS = 60
"""Of Griffin-Lim."""


def level(wave: np.ndarray) -> float:
    """Root mean square; 0 of silence."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if len(wave) else 0.0


def of_clip(wave: np.ndarray) -> Tensor:
    """Magnitudes of a clip brought to level 1, or of silence: (N,) to (T, F)."""
    unit = np.asarray(wave, np.float32) / np.float32(max(level(wave), 1e-9))
    return magnitudes(torch.from_numpy(unit)[None])[0]


def magnitudes(waves: Tensor, *, centre: bool = True) -> Tensor:
    """Magnitudes of the STFT of waves of level 1: (B, N) to (B, T, F), F = 257.

    The ends are mirrored, so that frame t is centred on sample ``128 t``. Without ``centre`` only
    whole windows are taken, the first beginning with the first sample.
    """
    window = torch.hann_window(WINDOW, dtype=waves.dtype, device=waves.device)
    spectrum = torch.stft(
        waves, WINDOW, HOP, window=window, center=centre, pad_mode="reflect", return_complex=True
    )  # (B, F, T)
    return spectrum.abs().transpose(1, 2) / window.square().sum().sqrt()


def decibels(magnitude: Tensor) -> Tensor:
    """``20 log10(m + FLOOR)``."""
    return 20 * torch.log10(magnitude + FLOOR)


def from_decibels(values: Tensor) -> Tensor:
    """Magnitudes whose `decibels` these are; what lies under the floor is 0."""
    return (10 ** (values / 20) - FLOOR).clamp_min(0)


def waveform(magnitude: Tensor, samples: int, seed: int) -> np.ndarray:
    """A waveform with about these magnitudes, by Griffin-Lim from random phases of a seed.

    Shape: (T, F) to float32 (N,), N = ``samples``; T must be N // 128 + 1
    """
    from torchaudio.transforms import GriffinLim

    scale = torch.hann_window(WINDOW).square().sum().sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        phases = GriffinLim(WINDOW, ITERATIONS, hop_length=HOP, power=1.0, length=samples)
        wave: np.ndarray = phases(magnitude.T.contiguous() * scale).numpy()
    return wave


def distances(original: Tensor, found: Tensor) -> dict[str, float]:
    """How far a reconstruction is from its original, in dB.

    Spectra are compared in the frames that hold sound: within 40 dB of the loudest, as STOI has it.
    ``l1_db`` is the mean absolute difference over frames and bins, ``l1_low_db`` and ``l1_high_db``
    that under and over 4 kHz; ``lsd_db`` the log-spectral distance: root mean square over bins,
    mean over frames.

    Shape: magnitudes (T, F) both
    """
    power = original.square().sum(1)  # (T,)
    heard = power > power.max() * 1e-4
    error = (decibels(found) - decibels(original))[heard].abs().double()  # (T', F)
    low = bins_of(0, 4000)
    return {
        "l1_db": error.mean().item(),
        "lsd_db": error.square().mean(1).sqrt().mean().item(),
        "l1_low_db": error[:, low].mean().item(),
        "l1_high_db": error[:, low.stop :].mean().item(),
    }


def bins_of(low: float, high: float) -> slice:
    """Bins from ``low`` up to but without ``high`` Hz; with it where it is the last bin's."""
    width = SAMPLE_RATE / WINDOW
    stop = BINS if high >= SAMPLE_RATE / 2 else int(np.ceil(high / width))
    return slice(int(np.ceil(low / width)), stop)


def energies(magnitude: Tensor) -> np.ndarray:
    """Energy of a clip in each band of `BANDS`: sum of squared magnitudes, float64 (4,)."""
    power = magnitude.double().square().sum(0)  # (F,)
    return np.array([power[bins_of(*band)].sum().item() for band in BANDS])


def gains(original: np.ndarray, found: np.ndarray, frames: int) -> dict[str, float]:
    """Energy of a reconstruction over that of its original (`energies`), in dB, by band.

    One figure for each of `NAMES`, and ``"high"``: the band from 4 to 8 kHz less all below, the
    loss of high frequencies whatever the level. Bands are left out where the original lies under
    the floor on average over its ``frames``, or the reconstruction holds nothing.

    Shape: (4,) both
    """
    sizes = [bins_of(*band).stop - bins_of(*band).start for band in BANDS]
    result = {}
    for name, size, a, b in zip(NAMES, sizes, original, found, strict=True):
        if a > FLOOR**2 * frames * size and b > 0:
            result[name] = 10 * float(np.log10(b / a))
    if NAMES[-1] in result and original[:-1].sum() > 0 and found[:-1].sum() > 0:
        below = 10 * float(np.log10(found[:-1].sum() / original[:-1].sum()))
        result["high"] = result[NAMES[-1]] - below
    return result
