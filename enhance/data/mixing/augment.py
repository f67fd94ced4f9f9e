"""What makes few recordings many: speed, formants, gain, clipping.

Plain functions of a waveform and a number, for one sample rate, all in float32; chance is
`enhance.data.mixing.mixer`'s business. All but `speed` keep every sound at its place to the sample.
"""

from __future__ import annotations

import numpy as np

from enhance.data.mixing.filters import fade_out

GAIN_SECONDS = 0.75
"""Time between two points of a slow change of gain."""
_WINDOW_SECONDS = 0.032
_ENVELOPE_SECONDS = (0.0015, 0.003)  # quefrency: all of it up to the first, nothing from the second
_MOST_DB = 20.0  # change of a bin: a warped band edge would lift what a codec left of the noise
_STEP = 64  # samples over which the gain is a straight line


def speed(wave: np.ndarray, factor: float, length: int) -> np.ndarray:
    """Played ``factor`` times as fast: tempo, pitch and formants together.

    soxr's polyphase filters take any factor, a change from clip to clip included, and cost less
    than a DFT of the segment; interpolation between samples alone would fold what stands above
    the new band edge. Below 1, the band above ``factor`` times half the rate is empty.

    What stood at sample n stands at n / factor.

    Shape: float32 (`stretch`,), as much as fills ``length`` -> float32 (length,)
    """
    import soxr

    return soxr.resample(wave, factor, 1.0, quality="MQ")[:length]


def stretch(length: int, factor: float) -> int:
    """Samples that `speed` needs to fill ``length``."""
    return length if factor == 1 else int(np.ceil(length * factor)) + 1


def shift_formants(wave: np.ndarray, factor: float, sample_rate: int) -> np.ndarray:
    """Formants at ``factor`` times their frequency, as of a shorter vocal tract above 1.

    Pitch and timing stay. In half-overlapping windows of 32 ms the spectral envelope is the log
    magnitude smoothed by its cepstrum (Oppenheim and Schafer's homomorphic separation of source
    and filter), and each bin is multiplied by the envelope at ``f / factor`` over the one at
    ``f``, at most 20 dB. The smoothing keeps quefrencies below 1.5 ms and fades out up to 3 ms:
    longer ones would hold the pitch of high voices, shorter ones blur the first formant.

    Shape: float32 (N,) -> float32 (N,)
    """
    from scipy import fft

    hop = round(_WINDOW_SECONDS * sample_rate / 2)
    blocks = np.zeros((-(-len(wave) // hop) + 2, hop), np.float32)
    blocks.reshape(-1)[hop : hop + len(wave)] = wave
    # Its square, added up at half overlap, is 1.
    window = np.sin(np.pi * np.arange(2 * hop) / (2 * hop)).astype(np.float32)
    spectrum = fft.rfft(np.hstack([blocks[:-1], blocks[1:]]) * window)  # (T, hop + 1)
    level = np.square(spectrum.real)
    level += np.square(spectrum.imag)
    peak = level.max()
    if not peak > 0:
        return wave.copy()
    level += np.float32(1e-8) * peak  # what is 80 dB down has no envelope worth following
    np.log(level, out=level)
    level *= np.float32(0.5)
    bins = np.arange(hop + 1, dtype=np.float32)
    full, none = (sample_rate * seconds for seconds in _ENVELOPE_SECONDS)
    cepstrum = fft.dct(level, 1, overwrite_x=True)
    cepstrum *= fade_out(bins, full, none)
    envelope = fft.idct(cepstrum, 1, overwrite_x=True)
    place = np.minimum(bins / np.float32(factor), np.float32(hop))
    below = np.minimum(place.astype(np.intp), hop - 1)
    place -= below
    change = envelope[:, below]
    change += (envelope[:, below + 1] - change) * place
    change -= envelope
    most = np.float32(_MOST_DB * np.log(10) / 20)
    np.clip(change, -most, most, out=change)
    spectrum *= np.exp(change, out=change)
    parts = fft.irfft(spectrum, overwrite_x=True)
    parts *= window
    blocks[:] = 0
    blocks[:-1] += parts[:, :hop]
    blocks[1:] += parts[:, hop:]
    return blocks.reshape(-1)[hop : hop + len(wave)]


def vary_gain(wave: np.ndarray, points_db: tuple[float, ...]) -> None:
    """Let the gain of ``wave`` (N,) pass through points at equal distances, from its first sample
    to its last, in straight lines in dB; in place."""
    n = len(wave)
    steps = -(-n // _STEP)
    place = np.linspace(0, len(points_db) - 1, len(points_db)) * ((n - 1) / (len(points_db) - 1))
    db = np.interp(np.arange(steps + 1) * _STEP, place, points_db)
    gain = (10 ** (db / 20)).astype(np.float32)
    ramp = np.linspace(0, 1, _STEP, endpoint=False, dtype=np.float32)
    wave *= (gain[:-1, None] + np.diff(gain)[:, None] * ramp).reshape(-1)[:n]


def gain_points(seconds: float) -> int:
    """How many points a change of gain has over a segment."""
    return max(2, round(seconds / GAIN_SECONDS) + 1)


def clip(wave: np.ndarray, fraction: float) -> None:
    """Cut ``wave`` (N,) at a fraction of its peak, as an overdriven input does; in place."""
    limit = np.float32(fraction) * max(wave.max(), -wave.min())
    np.clip(wave, -limit, limit, out=wave)
