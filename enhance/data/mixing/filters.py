"""What stands between mouth, noise and microphone: equaliser, band limit, room."""

from __future__ import annotations

import numpy as np

from enhance.data.mixing.rooms import Response

EQUALISER_HZ = (60.0, 180.0, 500.0, 1300.0, 3200.0, 7500.0)
"""Where an equaliser's points stand."""
LEAST_SHARE = 1e-5
"""Of a signal's energy: what filters leave below it is clicks at the ends and rounding."""
_TAIL = 2048  # samples of room for the ringing of equaliser and band limit


def apply(
    speech: np.ndarray,
    noise: np.ndarray,
    curves_db: tuple[tuple[float, ...], tuple[float, ...]],
    cutoff_hz: float | None,
    response: Response | None,
    early: int,
    sample_rate: int,
    noise_response: Response | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equaliser of each, band limit of both, rooms; without delay.

    A signal of which equaliser and band limit would leave nothing keeps all of it: to bring its
    rounding noise to a level would make another signal.

    ``curves_db`` are the points of the speech's and of the noise's equaliser, empty for none,
    ``cutoff_hz`` is that of `band_limit`, and the target keeps ``early`` samples after the direct
    path. Gives the speech that arrives, its target and the noise. An array that nothing changes is
    handed on; without a room, speech and target are one array.

    Shape: float32 (N,), (N,) -> float32 (N,), (N,), (N,)
    """
    speech_curve, noise_curve = curves_db
    rooms = [room for room in (response, noise_response) if room is not None]
    if not rooms and not speech_curve and not noise_curve and cutoff_hz is None:
        return speech, speech, noise
    from scipy import fft

    n = len(speech)
    size = fft.next_fast_len(n + max(_TAIL, *(len(room.wave) for room in rooms), 0), True)
    band = None if cutoff_hz is None else band_limit(size, sample_rate, cutoff_hz)

    def spectrum_of(wave: np.ndarray, curve: tuple[float, ...]) -> np.ndarray:
        spectrum = fft.rfft(wave, size)
        if not curve and band is None:
            return spectrum
        before = _energy(spectrum)
        if curve:
            spectrum *= equaliser(size, sample_rate, curve)
        if band is not None:
            spectrum *= band
        return spectrum if _energy(spectrum) >= LEAST_SHARE * before else fft.rfft(wave, size)

    def wave_of(spectrum: np.ndarray, start: int = 0) -> np.ndarray:
        return fft.irfft(spectrum, size, overwrite_x=True)[start : start + n]

    if noise_response is not None:
        spectrum = spectrum_of(noise, noise_curve)
        spectrum *= fft.rfft(noise_response.wave, size)
        noise = wave_of(spectrum, noise_response.direct)
    elif noise_curve or band is not None:
        noise = wave_of(spectrum_of(noise, noise_curve))
    if response is None:
        if speech_curve or band is not None:
            speech = wave_of(spectrum_of(speech, speech_curve))
        return speech, speech, noise
    spectrum = spectrum_of(speech, speech_curve)
    early_spectrum = fft.rfft(response.early(early), size)
    early_spectrum *= spectrum
    clean = wave_of(early_spectrum, response.direct)
    spectrum *= fft.rfft(response.wave, size)
    return wave_of(spectrum, response.direct), clean, noise


def equaliser(size: int, sample_rate: int, points_db: tuple[float, ...]) -> np.ndarray:
    """Gain of each bin of a DFT of ``size`` samples: through `EQUALISER_HZ`, in straight lines of
    dB over the logarithm of frequency. Float32 (size // 2 + 1,)."""
    hz = np.maximum(_frequencies(size, sample_rate), 1)
    db = np.interp(np.log(hz, out=hz), np.log(EQUALISER_HZ), points_db)
    gain = (np.log(10) / 20 * db).astype(np.float32)
    return np.exp(gain, out=gain)


def band_limit(size: int, sample_rate: int, cutoff_hz: float) -> np.ndarray:
    """Gain of each bin of a DFT of ``size`` samples: a raised cosine from the cutoff to a tenth
    above it. Float32 (size // 2 + 1,)."""
    return fade_out(_frequencies(size, sample_rate), cutoff_hz, 1.1 * cutoff_hz)


def fade_out(x: np.ndarray, full: float, none: float) -> np.ndarray:
    """1 up to ``full``, 0 from ``none`` on, half a cosine between; float32."""
    position = np.clip((x - np.float32(full)) / np.float32(none - full), 0, 1)
    return 0.5 + 0.5 * np.cos(np.float32(np.pi) * position)


def _energy(spectrum: np.ndarray) -> float:
    return float(np.square(np.abs(spectrum)).sum(dtype=np.float64))


def _frequencies(size: int, sample_rate: int) -> np.ndarray:
    return np.arange(size // 2 + 1, dtype=np.float32) * np.float32(sample_rate / size)
