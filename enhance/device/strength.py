"""How much of a model's work is kept: enhanced signal and input, mixed."""

from __future__ import annotations

import numpy as np

from enhance.errors import EnhanceError


def wet_share(strength: float = 1.0, atten_limit: float | None = None) -> float:
    """Share w of the enhanced signal e in the output, the rest being the input x, delayed as e is.

    Strength s mixes first, ``m = s e + (1 - s) x``. A limit of L dB then leaves a floor of the
    input, ``out = f x + (1 - f) m`` with ``f = 10^(-L / 20)``: what the model takes away wholly
    stays, L dB down, and nothing that it merely turns down falls lower. Together that is one mix,
    ``out = w e + (1 - w) x`` with ``w = s (1 - f)``.

    The limit is DeepFilterNet's (``--atten-lim``, `df/enhance.py`: ``enhanced = noisy * lim +
    enhanced * (1 - lim)``), except that 0 dB means what it says there: nothing is suppressed.

    Parameters
    ----------
    strength
        s, from 0 (the input) to 1.
    atten_limit
        L, dB, at least 0; None or infinity for no limit.

    Raises
    ------
    EnhanceError
        If one is no number in its range.
    """
    if not (_is_number(strength) and 0 <= strength <= 1):
        raise EnhanceError(f"strength {strength}: must be a number from 0 to 1")
    if atten_limit is None:
        return float(strength)
    if not (_is_number(atten_limit) and atten_limit >= 0):
        raise EnhanceError(
            f"atten_limit {atten_limit}: must be a number of dB, at least 0 (left out: no limit)"
        )
    return float(strength * (1 - 10 ** (-atten_limit / 20)))


def mix(wet: np.ndarray, dry: np.ndarray, share: float) -> np.ndarray:
    """Elementwise ``share * wet + (1 - share) * dry``, float32."""
    return np.float32(share) * wet + np.float32(1 - share) * dry


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
