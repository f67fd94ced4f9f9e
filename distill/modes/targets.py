"""Targets of training segments: the teacher's embedding of the clean speech, frame by frame.

The embedding of a crop is not the crop of an embedding (attention and group norm see the whole
input), so a target is made ONCE from the WHOLE, unaugmented file and cached
(`distill.teacher.features.Features`); a segment takes the frames of its pieces out of it. That
needs every piece to sit on the teacher's stride: ``segment_start - clip_start`` is a multiple of
it, which mixing guarantees (its ``alignment``). Where augmentation changed the speech in time or
spectrum, the file's embedding no longer describes it: then the live teacher listens to the
segment's clean signal.

Frames that no piece owns (silence, gaps) carry no target. The level of the speech in the mixture
does not count: the teacher hears the file as it is.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.teacher.features import Features
from distill.teacher.windows import hear
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.recipe import Piece
from enhance.errors import EnhanceError
from enhance.progress import progress_bar

log = logging.getLogger("enhance")


class Targets:
    """Features of clean speech, cut to the pieces of segments.

    An `EnhanceError` if the chosen states differ in width.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        self.teacher, self.layers, self.grid = features.teacher, features.layers, features.grid
        self.width = features.width
        self.live, self.seconds, self.filling_seconds = 0, 0.0, 0.0
        self._keys: dict[int, str] = {}
        self._store: ClipStore | None = None

    def bind(self, store: ClipStore) -> None:
        """Take the clips that the pieces of later batches are numbered by.

        An `EnhanceError` if their sample rate is not the teacher's.
        """
        if store.sample_rate != self.teacher.sample_rate:
            raise EnhanceError(
                f"teacher {self.teacher.name}: hears {self.teacher.sample_rate} Hz, the clips "
                f"have {store.sample_rate} Hz; set model.stft.sample_rate or take another teacher"
            )
        self._store, self._keys = store, {}

    def clip(self, index: int, device: torch.device | str = "cpu") -> np.ndarray:
        """What `Features.kept` has of a clip of the bound store.

        Shape: -> (T', D)
        """
        store = self._bound()
        if index not in self._keys:
            wave = store.whole(index)
            key = self._keys[index] = self.features.key(wave)
            return self.features.kept(key, len(wave), lambda: wave, device)
        key, samples = self._keys[index], store.length(index)
        return self.features.kept(key, samples, lambda: store.whole(index), device)

    def batch(
        self, clean: Tensor, pieces: Sequence[Sequence[Piece]], altered: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """Targets of a batch of segments, on the teacher's frames.

        ``clean`` are the segments (B, N), ``pieces`` tell which samples of which clip each is made
        of. Of items whose speech was ``altered`` in time or spectrum the live teacher hears
        ``clean``.

        Shape: -> float32 (B, T', D), zero where there is no target, and bool (B, T'): frames whose
        centre lies in a piece, and which the file's embedding has
        """
        begin = time.perf_counter()
        frames = self.teacher.frames(clean.shape[1])
        values = np.zeros((len(pieces), frames, self.width), np.float32)
        valid = np.zeros((len(pieces), frames), bool)
        for b, row in enumerate(pieces):
            for piece in row:
                owned = self.grid.owned(piece.segment_start, piece.length, frames)
                if altered[b]:
                    valid[b, owned.start : owned.stop] = True
                    continue
                shift = self._shift(piece)
                whole = self.clip(piece.clip, clean.device)
                first = max(owned.start, shift)
                stop = min(owned.stop, shift + len(whole))
                if first < stop:
                    part = whole[first - shift : stop - shift]
                    values[b, first:stop] = self.features.normalized(part)
                    valid[b, first:stop] = True
        result = torch.from_numpy(values).to(clean.device)
        mask = torch.from_numpy(valid).to(clean.device)
        rows = [b for b, changed in enumerate(altered) if changed and valid[b].any()]
        if rows:
            self.live += sum(len(pieces[b]) for b in rows)
            result[rows] = self.ask(clean[rows].float()) * mask[rows][..., None]
        self.seconds += time.perf_counter() - begin
        return result, mask

    def precompute(
        self,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        quiet: bool = False,
    ) -> int:
        """Fill the cache with every clip of the bound store; returns how many were made now.

        May be stopped at any time (Ctrl-C travels): what is stored stays, and the next call goes
        on from there. Each of several processes starts with its own share and then passes over
        the others', which are mostly there by then. Runs that know nothing of each other start
        anywhere, so that they too meet what the others have made.
        """
        store = self._bound()
        cache, count, made, audio = self.features.cache, len(store), 0, 0.0
        whole = cache.bound
        start = secrets.randbelow(count) if world == 1 else rank * count // world
        begin = time.perf_counter()
        with progress_bar(quiet=quiet or rank > 0) as bar:
            task = bar.add_task("teacher listens", total=count, speed="")
            for i in range(count):
                index = (start + i) % count
                wave = store.whole(index)
                key = self._keys[index] = self.features.key(wave)
                if not cache.holds(key):
                    self.features.make(key, wave, device)
                    made += not cache.refused
                    audio += len(wave) / store.sample_rate
                elapsed = time.perf_counter() - begin
                speed = f"{audio / elapsed:.0f} audio-s/s" if audio else ""
                bar.update(task, advance=1, speed=speed)
                if cache.refused:  # the rest would be made for nothing
                    log.warning(
                        "%s: full, %d of %d clips added; other targets are made anew in training: "
                        "raise objective.cache_gb (%.1f GB for all of %s) or free disk space",
                        cache.folder, made, count, whole.limit_bytes / 1e9, whole.folder,
                    )  # fmt: skip
                    break
        self.filling_seconds += time.perf_counter() - begin
        return made

    def prepare(
        self, store: ClipStore, wanted: bool, device: torch.device | str, quiet: bool
    ) -> None:
        """Bind the clips and, if wanted, fill the cache, each process its own share first."""
        self.bind(store)
        if wanted and self.features.cache.bound.limit_bytes > 0:
            spread = torch.distributed.is_available() and torch.distributed.is_initialized()
            self.precompute(
                device=device,
                rank=torch.distributed.get_rank() if spread else 0,
                world=torch.distributed.get_world_size() if spread else 1,
                quiet=quiet,
            )

    def log(self) -> dict[str, float]:
        """Share of pieces served from the cache and of pieces heard live, the size of these
        features on disk, and the seconds that targets took: in training, and to fill the cache
        before it (on an accelerator only until the work is handed over)."""
        cache = self.features.cache
        asked = max(cache.hits + cache.misses + self.live, 1)
        return {
            "target_hit_rate": cache.hits / asked,
            "target_live": self.live / asked,
            "target_cache_mb": cache.size_bytes / 1e6,
            "target_seconds": round(self.seconds, 3),
            "target_filling_seconds": round(self.filling_seconds, 3),
        }

    def ask(self, waves: Tensor) -> Tensor:
        """By the live teacher. Shape: (B, N) of equal length -> (B, T', D)"""
        return hear(self.teacher, waves, lambda hidden: self.layers.select(hidden, self.width))

    def _shift(self, piece: Piece) -> int:
        """Frames by which the file's embedding moves to lie on the segment's grid."""
        samples = piece.segment_start - piece.clip_start
        if samples % self.grid.stride:
            raise EnhanceError(
                f"a piece lies {samples} samples off its clip, no multiple of the teacher's "
                f"stride {self.grid.stride}; build the Mixer with alignment={self.grid.stride}"
            )
        return samples // self.grid.stride

    def _bound(self) -> ClipStore:
        if self._store is None:
            raise EnhanceError("targets: no clips are bound; call bind(store) first")
        return self._store
