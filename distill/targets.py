"""Targets of training segments: the teacher's embedding of the clean speech, frame by frame.

The embedding of a crop is not the crop of an embedding (attention and group norm see the whole
input), so a target is made ONCE from the WHOLE, unaugmented file and cached; a segment takes
the frames of its pieces out of it. That needs every piece to sit on the teacher's stride:
``segment_start - clip_start`` is a multiple of it, which mixing guarantees (its ``alignment``).
Where augmentation changed the speech in time or spectrum, the file's embedding no longer
describes it: then the live teacher listens to the segment's clean signal.

Frames that no piece owns (silence, gaps) carry no target. The level of the speech in the mixture
does not count: the teacher hears the file as it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from distill.cache import TargetCache
from distill.frames import FrameGrid
from distill.layers import Layers
from distill.teacher import Teacher
from distill.windows import CONTEXT_SECONDS, WINDOW_SECONDS, windows
from enhance.errors import EnhanceError
from enhance.progress import progress_bar

if TYPE_CHECKING:
    from enhance.data.clip_store import ClipStore
    from enhance.data.mixing import Piece

log = logging.getLogger("enhance")

_FORMAT = 1  # counts up whenever the same audio and teacher would give another target


Precompute = Literal["auto", "always", "never"]
"""Whether to fill the cache before the first step: see `pays`."""


def pays(precompute: Precompute, expected_mixtures: int, store: ClipStore) -> bool:
    """Whether the cache is worth filling first.

    ``auto`` says so if the run will ask for at least as many mixtures of unaltered speech as
    there are clips; otherwise each target is made when its clip is first drawn.
    """
    return precompute == "always" or (precompute == "auto" and expected_mixtures >= len(store))


class Targets:
    """A teacher, the choice of its layers, and the cache of what it said.

    Parameters
    ----------
    teacher
        Frozen teacher.
    layers
        Such as ``last`` or ``first_k:4`` (`distill.layers.Layers`).
    cache
        Folder; targets lie in a subfolder for this teacher and these layers, wherever
        the teacher was found.
    limit_bytes
        Bound on that subfolder.
    """

    def __init__(
        self, teacher: Teacher, layers: str, cache: Path, limit_bytes: float = 20e9
    ) -> None:
        self.teacher = teacher
        self.layers = Layers.parse(layers, teacher.num_layers)
        self.grid = FrameGrid.of_teacher(teacher)
        self.width = self.layers.width(teacher.widths, teacher.name)
        kind = f"{_FORMAT}|{teacher.fingerprint}|{layers}|{WINDOW_SECONDS}|{CONTEXT_SECONDS}"
        self._kind = hashlib.sha256(kind.encode()).hexdigest()
        self.cache = TargetCache(
            Path(cache) / f"{self.layers.text.replace(':', '-')}-{self._kind[:16]}",
            limit_bytes,
        )
        self.live = 0
        self._keys: dict[int, str] = {}
        self._store: ClipStore | None = None

    def bind(self, store: ClipStore) -> None:
        """Take the clips that the pieces of later batches are numbered by.

        Raises
        ------
        EnhanceError
            If their sample rate is not the teacher's.
        """
        if store.sample_rate != self.teacher.sample_rate:
            raise EnhanceError(
                f"teacher {self.teacher.name}: hears {self.teacher.sample_rate} Hz, the clips "
                f"have {store.sample_rate} Hz; set model.stft.sample_rate or take another teacher"
            )
        self._store, self._keys = store, {}

    def key(self, wave: np.ndarray) -> str:
        """Cache key of a clip: teacher, layers and every sample of its audio."""
        digest = hashlib.sha256(self._kind.encode())
        digest.update(np.ascontiguousarray(wave, dtype="<f4").tobytes())
        return digest.hexdigest()

    def embed(self, wave: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
        """Target of one whole clip by the live teacher, one clip at a time.

        Never in a batch with others: rounding would then depend on the company, and a target
        made before training would differ from one made in it.

        Shape: (N,) float32 -> (T', D) float32
        """
        total = self.teacher.frames(len(wave))
        out = np.zeros((total, self.width), np.float32)
        for window, samples in windows(total, self.teacher):
            part = torch.from_numpy(np.array(wave[samples], np.float32)).to(device)
            values = self._ask(part[None])[0].cpu().numpy()  # (T', D)
            out[window.begin : window.end] = values[
                window.begin - window.first : window.end - window.first
            ]
        return out

    def clip(self, index: int, device: torch.device | str = "cpu") -> np.ndarray:
        """Target of a whole clip of the bound store, from the cache or made and stored now.

        Shape: -> (T', D) float16
        """
        store = self._bound()
        wave = None
        if index not in self._keys:
            wave = store.whole(index)
            self._keys[index] = self.key(wave)
        shape = (self.teacher.frames(store.length(index)), self.width)
        found = self.cache.get(self._keys[index], shape)
        if found is not None:
            return found
        return self.cache.put(
            self._keys[index], self.embed(store.whole(index) if wave is None else wave, device)
        )

    def batch(
        self,
        clean: Tensor,
        pieces: Sequence[Sequence[Piece]],
        altered: Sequence[bool],
    ) -> tuple[Tensor, Tensor]:
        """Targets of a batch of segments, on the teacher's frames.

        Parameters
        ----------
        clean
            Clean segments (B, N).
        pieces
            Which samples of which clip each segment is made of.
        altered
            Items whose speech was changed in time or spectrum: the live teacher hears ``clean``.

        Returns
        -------
        values
            float32 (B, T', D), zero where there is no target.
        valid
            bool (B, T'): frames whose centre lies in a piece, and which the file's embedding has.
        """
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
                    values[b, first:stop] = whole[first - shift : stop - shift]
                    valid[b, first:stop] = True
        result = torch.from_numpy(values).to(clean.device)
        mask = torch.from_numpy(valid).to(clean.device)
        rows = [b for b, changed in enumerate(altered) if changed and valid[b].any()]
        if rows:
            self.live += sum(len(pieces[b]) for b in rows)
            result[rows] = self._ask(clean[rows].float()) * mask[rows][..., None]
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
        the others', which are mostly there by then.
        """
        store = self._bound()
        count = len(store)
        made, seconds = 0, 0.0
        with progress_bar(quiet=quiet or rank > 0) as bar:
            task = bar.add_task("teacher listens", total=count, speed="")
            for i in range(count):
                index = (i + rank * count // world) % count
                wave = store.whole(index)
                key = self._keys[index] = self.key(wave)
                if not self.cache.holds(key):
                    self.cache.put(key, self.embed(wave, device))
                    made += not self.cache.refused
                    seconds += len(wave) / store.sample_rate
                elapsed = bar.tasks[task].elapsed or 0.0
                speed = f"{seconds / elapsed:.0f} audio-s/s" if seconds and elapsed else ""
                bar.update(task, advance=1, speed=speed)
                if self.cache.refused:  # the rest would be made for nothing
                    log.warning(
                        "%s: full at %.1f GB, %d of %d clips added; other targets are made anew "
                        "in training: raise objective.cache_gb",
                        self.cache.folder, self.cache.size_bytes / 1e9, made, count,
                    )  # fmt: skip
                    break
        return made

    def prepare(
        self, store: ClipStore, wanted: bool, device: torch.device | str, quiet: bool
    ) -> None:
        """Bind the clips and, if wanted, fill the cache, each process its own share first."""
        self.bind(store)
        if wanted:
            spread = torch.distributed.is_available() and torch.distributed.is_initialized()
            self.precompute(
                device=device,
                rank=torch.distributed.get_rank() if spread else 0,
                world=torch.distributed.get_world_size() if spread else 1,
                quiet=quiet,
            )

    def log(self) -> dict[str, float]:
        """Share of pieces served from the cache, of pieces heard live, and the cache's size."""
        asked = self.cache.hits + self.cache.misses + self.live
        return {
            "target_hit_rate": self.cache.hits / max(asked, 1),
            "target_live": self.live / max(asked, 1),
            "target_cache_mb": self.cache.size_bytes / 1e6,
        }

    def _ask(self, waves: Tensor) -> Tensor:
        """Shape: (B, N) of equal length -> (B, T', D)"""
        self.teacher.to(waves.device)
        lengths = torch.full((len(waves),), waves.shape[1])
        return self.layers.select(self.teacher(waves, lengths)[0], self.width)

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
