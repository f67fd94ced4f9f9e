"""Training of one decoder: crops of clips, L1 between spectra, by the loop of the package.

The loss is the mean absolute difference in decibels, every band divided by its deviation over the
training clips, so that the quiet bands above 4 kHz count as much as the others. Its best guess is
the median of what features leave open, so that what they do not tell becomes quieter: a loss of
energy measures that, and is to be held against a control that went through the same decoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.data import DecoderData
from benchmarks.analysis.reconstruct.decoder import Decoder
from benchmarks.analysis.reconstruct.sources import Source
from benchmarks.analysis.reconstruct.spectrum import (
    GRID,
    HOP,
    SAMPLE_RATE,
    WINDOW,
    decibels,
    from_decibels,
    magnitudes,
    of_clip,
)
from distill.backbones.frozen import fingerprint
from distill.teacher.frames import FrameGrid, resample
from distill.training.accuracy import evaluating
from distill.training.loop import Loop, state_file
from enhance.progress import progress_bar
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Step
from enhance.training.engine.processes import Hardware, on_cpu

FORMAT = "enhance-decoder-2"
_STATISTICS_CLIPS = 64
_IN_MEMORY = 1e9  # bytes of features; others are asked for again


def on_frames(values: np.ndarray, grid: FrameGrid, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Features of a clip on ``count`` frames of `spectrum.GRID`, the first being ``start``.

    Returns them, zero where there are none, and which of the frames have any.

    Shape: (T', D) on ``grid`` to (count, D), bool (count,)
    """
    # The cells of both grids, in half samples: only what overlaps is looked at.
    first = GRID.cells(1)[0] + 2 * start * GRID.stride - grid.cells(1)[0]
    begin = min(max(int(first // (2 * grid.stride)), 0), len(values))
    end = -int(-(first + 2 * count * GRID.stride) // (2 * grid.stride))
    part = torch.from_numpy(np.asarray(values[begin : max(end, begin)], np.float32))
    # Both moved back alike: the same few pairs of grids come again and again.
    shift = begin * grid.stride
    target = replace(GRID, offset=GRID.offset + start * GRID.stride - shift)
    valid = torch.ones(1, len(part), dtype=torch.bool)
    found, known = resample(part[None], valid, grid, target, count)
    return found[0], known[0]


class DecoderLearner(Learner):
    """One decoder, what it reconstructs from, and its clips."""

    def __init__(self, config: DecoderConfig, source: Source, data: DecoderData) -> None:
        self.config, self.source, self.data, self.name = config, source, data, source.name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.decoder = Decoder(source.width, config.width, config.blocks, config.kernel)
        self._features: dict[int, np.ndarray] = {}
        self._bytes = 0
        lengths = np.array([data.speech.length(i) for i in data.train], np.float64)
        self._share = lengths / lengths.sum()

    def prepare(self, interrupt: Interrupt, *, quiet: bool = False) -> bool:
        """Hear every clip, and take statistics; False where interrupted.

        What a teacher said of a clip stays in the cache on disk.
        """
        data, seconds = self.data, 0.0
        with progress_bar(quiet=quiet) as bar:
            task = bar.add_task(
                f"features, {self.source.name}", total=len(data.train) + len(data.held), speed=""
            )
            for clip in [*data.train, *data.held]:
                if interrupt.caught:
                    return False
                self.features(clip)
                seconds += data.speech.length(clip) / SAMPLE_RATE
                elapsed = max(bar.tasks[task].elapsed or 0.0, 1e-9)
                bar.update(task, advance=1, speed=f"{seconds / elapsed:.0f} audio-s/s")
        rng = np.random.default_rng(np.random.SeedSequence([self.config.seed, 4]))
        order = rng.permutation(len(data.train))[:_STATISTICS_CLIPS]
        chosen = [data.train[i] for i in order]
        heard = torch.from_numpy(np.concatenate([self.features(i) for i in chosen]))
        seen = torch.cat([self._whole(i) for i in chosen])
        self.decoder.normalize_by(heard, seen)
        return True

    def features(self, clip: int) -> np.ndarray:
        """Features of a clip, kept in memory as far as there is room; (T', D) float32."""
        found = self._features.get(clip)
        if found is None:
            found = self.source.of(self.data.heard(clip))
            if self._bytes + found.nbytes <= _IN_MEMORY:
                self._features[clip] = found
                self._bytes += found.nbytes
        return found

    def learnt(self) -> dict[str, torch.nn.Module]:
        """The decoder."""
        return {"decoder": self.decoder}

    def batches(self, rank: int, world: int, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features (B, T, D), where there are any (B, T), and decibels (B, T, F)."""
        config, speech = self.config, self.data.speech
        count = config.crop_frames
        length = (count - 1) * HOP + WINDOW
        for number in itertools.count(step * world + rank, world):
            rng = np.random.default_rng(np.random.SeedSequence([config.seed, 5, number]))
            clips = rng.choice(len(self._share), config.batch, p=self._share)
            rows, known, waves = [], [], []
            for i in (self.data.train[c] for c in clips):
                # Frames whose window is inside the clip: frame t begins at 128 t - 256.
                last = (speech.length(i) - length + WINDOW // 2) // HOP
                start = int(rng.integers(WINDOW // 2 // HOP, last + 1))
                x, valid = on_frames(self.features(i), self.source.grid, start, count)
                rows.append(x)
                known.append(valid)
                begin = start * HOP - WINDOW // 2
                waves.append(torch.from_numpy(self.data.clean(i, begin, length)))
            spectrum = decibels(magnitudes(torch.stack(waves), centre=False))
            yield torch.stack(rows), torch.stack(known), spectrum

    def forward(self, batch: Any, step: int) -> Step:
        """L1 of a batch."""
        features, valid, spectrum = batch
        error = (self.decoder(features, valid) - spectrum).abs() * valid[..., None]  # (B, T, F)
        share = 1 / valid.sum().clamp_min(1)
        loss = (error * (1 / self.decoder.scale)).mean(-1).sum() * share
        seconds = len(features) * self.config.crop_frames * HOP / SAMPLE_RATE
        far = (error.detach().mean(-1).sum() * share).item()
        return Step(loss, seconds, means={"loss": loss.item(), "l1_db": far})

    def validate(self) -> dict[str, Any]:
        """L1 in dB over all frames of the held-back clips, and that of the mean spectrum."""
        far = mean = count = 0.0
        with on_cpu([self.decoder]), evaluating(self.decoder):
            for clip in self.data.held:
                spectrum = self._whole(clip)
                features, frames = self.features(clip), len(spectrum)
                found, valid = decode(self.decoder, self.source.grid, features, frames)
                far += (found - spectrum)[valid].abs().sum().item()
                mean += (self.decoder.mean - spectrum)[valid].abs().sum().item()
                count += valid.sum().item() * spectrum.shape[1]
        return {"l1_db": far / max(count, 1), "mean_spectrum_l1_db": mean / max(count, 1)}

    def _whole(self, clip: int) -> Tensor:
        return decibels(of_clip(self.data.speech.whole(clip)))


@torch.no_grad()
def decode(
    decoder: Decoder, grid: FrameGrid, features: np.ndarray, count: int
) -> tuple[Tensor, Tensor]:
    """Decibels (T, F) of a whole clip of ``count`` frames, and which frames had features (T,)."""
    x, valid = on_frames(features, grid, 0, count)
    return decoder(x[None], valid[None])[0], valid


@dataclass(frozen=True)
class Trained:
    """A decoder at the end of its training."""

    decoder: Decoder
    """In eval mode."""
    source: Source
    """What it reconstructs from."""
    digest: str
    """Of its weights."""
    about: dict[str, Any]
    """Its part of the record."""

    def decibels(self, heard: np.ndarray, count: int) -> Tensor:
        """What is reconstructed from a clip of ``count`` frames: (N,) to (count, F)."""
        return decode(self.decoder, self.source.grid, self.source.of(heard), count)[0]

    def magnitudes(self, original: Tensor, heard: np.ndarray) -> Tensor:
        """The same as magnitudes, on the frames of the original: (T, F), (N,) to (T, F)."""
        return from_decibels(self.decibels(heard, len(original)))


def train(
    config: DecoderConfig,
    source: Source,
    data: DecoderData,
    output: Path,
    interrupt: Interrupt,
    *,
    hardware: Hardware = Hardware(),  # noqa: B008  (frozen)
    quiet: bool = False,
) -> Trained | None:
    """Train a decoder, or go on with the one in the folder; None where interrupted.

    An `EnhanceError` refuses a folder that was begun with other settings, and a loss that is not
    finite.
    """
    config = replace(config, source=source.key, corpus=data.digest())
    learner = DecoderLearner(config, source, data)
    resume = state_file(output).exists()
    with Loop(config, output, FORMAT, resume=resume, hardware=hardware, quiet=quiet) as loop:
        if "held_back" in loop.kept:
            loop.restore(learner.learnt())
            learner.decoder.eval()
        else:
            if not learner.prepare(interrupt, quiet=quiet):
                return None
            steps, minutes = config.steps, config.minutes
            if not loop.train(learner, interrupt, steps=steps, minutes=minutes):
                return None
            loop.kept["held_back"] = learner.validate()
            loop.save(learner.learnt())
    about = {
        "name": source.name,
        "kind": source.kind,
        "key": source.key,
        "width": source.width,
        "stride_samples": source.grid.stride,
        "parameters": sum(p.numel() for p in learner.decoder.parameters()),
        **loop.spent(),
        **loop.kept,
    }
    return Trained(
        learner.decoder, source, fingerprint("", learner.decoder.state_dict())[:16], about
    )
