"""Proof that a model does not look ahead: its future is changed, sample by sample.

A stream of hops cannot show this: it has nothing to look ahead at. The model therefore hears whole
signals, all frames at once, where a kernel over future frames, a bidirectional layer or a statistic
of the whole clip have all they want, and must not use it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from enhance.network.waveform_model import WaveformModel
from enhance.stft import window

FIRST, HOPS = 6, 16
"""Signals of 16 hops; every sample of a hop is tried, in the hops from 6 to 13 by turns, so that
networks that join two, four or eight frames are met at each of them."""
FAR_SECONDS = 2.0
"""One longer signal, changed near its end, for what looks further ahead than that."""
BATCH = 64


def look_ahead(model: WaveformModel) -> dict[str, Any]:
    """How far a model on whole signals looks ahead, and what was tried.

    The input is changed from sample n on, once to other noise and once to silence; m is the first
    output sample, aligned with the input, that differs in any bit. Sample n lies in frame
    ``t = n // H``, which begins O samples before its hop, so that of a model that looks ahead only
    within its frame ``m >= t H - O + zeros``. The model is in evaluation mode, on the CPU.

    Given are `measured_samples`, the largest ``n - m + 1``; `algorithmic_samples`, one window;
    `certain_zeros`, the part of the window's front that weighs nothing and hides as much of it;
    `beyond_framing_samples`, by how much any m comes before its bound (0: never); `unchanged`,
    positions that changed nothing and so show nothing; `tried`, in figures.
    """
    config = model.config.stft
    hop = config.hop_length
    zeros = int(np.flatnonzero(window(config) > 0)[0])
    near = {(FIRST + r % 8) * hop + r for r in range(hop)}
    near |= {h * hop + r for h in range(FIRST, FIRST + 8) for r in (0, hop - 1)}
    far_hops = round(FAR_SECONDS * config.sample_rate) // hop
    far = {(far_hops - 4) * hop, (far_hops - 3) * hop - 1}
    reach, beyond, unchanged = 0, 0, 0
    for hops, positions in ((HOPS, sorted(near)), (far_hops, sorted(far))):
        for n, m in _first_changes(model, hops * hop, positions):
            if m is None:
                unchanged += 1
                continue
            reach = max(reach, n - m + 1)
            first = n // hop * hop - config.overlap  # of the frame that hears sample n first
            beyond = max(beyond, first + zeros - m)
    return {
        "measured_samples": reach,
        "algorithmic_samples": config.algorithmic_latency_samples,
        "certain_zeros": zeros,
        "beyond_framing_samples": beyond,
        "unchanged": unchanged,
        "tried": {
            "model": "torch on whole signals of noise, all frames at once",
            "change": "input from sample n on: other noise; silence",
            "found": "first output sample that differs in any bit",
            "positions": len(near) + len(far),
            "samples_within_a_hop": hop,
            "signal_samples": [HOPS * hop, far_hops * hop],
        },
    }


def _first_changes(
    model: WaveformModel, samples: int, positions: list[int]
) -> list[tuple[int, int | None]]:
    """(n, m) for each position and change; None where the output is the same to its end."""
    rng = np.random.default_rng(0)
    wave, other = (torch.from_numpy(rng.normal(0, s, samples)).float() for s in (0.1, 0.3))
    found: list[tuple[int, int | None]] = []
    unchanged: dict[int, Tensor] = {}  # by rows: a batch of the same shape, the same sums
    for start in range(0, len(positions), BATCH):
        part = positions[start : start + BATCH]
        late = torch.arange(samples) >= torch.tensor(part)[:, None]  # (B, N)
        if len(part) not in unchanged:
            unchanged[len(part)] = _enhance(model, wave.expand(len(part), -1))
        for change in (other, torch.zeros_like(other)):
            new = _enhance(model, torch.where(late, change, wave))
            changed = new != unchanged[len(part)]  # (B, N)
            first = changed.int().argmax(1).tolist()
            found += [
                (n, m if changed[i, m] else None)
                for i, (n, m) in enumerate(zip(part, first, strict=True))
            ]
    return found


def _enhance(model: WaveformModel, waves: Tensor) -> Tensor:
    with torch.no_grad():
        return model.enhance(waves.contiguous())
