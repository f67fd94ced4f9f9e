"""Spectrograms of one clip: the original, and what decoders make of its features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.measure import Row, read_clip
from benchmarks.analysis.reconstruct.sources import LOG_MEL, TEACHER, TWIN
from benchmarks.analysis.reconstruct.training import Trained
from benchmarks.quality.clips import Pair
from enhance.files import atomic


def picture(
    path: Path,
    trained: Sequence[Trained],
    pairs: Sequence[Pair],
    rows: Sequence[Row],
    *,
    noisy: bool,
) -> str:
    """Draw the original and reconstructions of one clip into a file; returns the clip's name.

    It is that of median L1 in the measured rows of the first decoder.
    """
    from matplotlib.figure import Figure

    first = trained[0].source.name
    far = [
        (r["figures"]["l1_db"], r["clip"]) for r in rows if r["method"] == first and r["figures"]
    ]
    name = sorted(far)[len(far) // 2][1] if far else pairs[0].name
    pair = next(pair for pair in pairs if pair.name == name)
    clean, heard = read_clip(pair, noisy=noisy)
    original = spectrum.decibels(spectrum.of_clip(clean))
    shown = {one.source.kind: one for one in reversed(trained)}  # the first of each kind
    panels = {f"from {one.source.name}": one.decibels(heard, len(original))
              for kind in (TEACHER, TWIN, LOG_MEL) if (one := shown.get(kind))}  # fmt: skip
    panels = {"original": original, **panels}
    figure = Figure(figsize=(9, 2.1 * len(panels)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True, sharey=True))
    extent = (0, len(clean) / spectrum.SAMPLE_RATE, 0, spectrum.SAMPLE_RATE / 2000)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(
            values.numpy().T, origin="lower", aspect="auto", extent=extent, vmin=-55, vmax=25
        )
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("kHz", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("s", fontsize=8)
    figure.colorbar(image, ax=list(axes), label="dB", shrink=0.6)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return name
