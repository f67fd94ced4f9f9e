"""Features of whole clips: a frozen teacher, a choice of its layers, and the disk cache.

Training and analysis ask the same cache. What lies in it is raw: one hidden state, before any
layer norm, under the number of the state, so that ``last``, ``single:L`` and an analysis that
asks for every state share its files; it is normalised when read. Only where several states become
one (``first_k:k`` and the like) their normalised mean is kept instead: the states themselves
would take k times the disk and the reading.

What is made now and what is found later are the same bits, because what is made is given back as
it will be read. The features of a clip depend on nothing but the teacher and the clip.

Half precision rounds a value by at most 2**-11 of itself. What is lost below its smallest steps
(3e-8) is nothing beside the 1e-5 that layer norm adds to a variance. Where a value passes its
range (65504), as outlier features of large transformers may in single channels, the clip is
stored in single precision: clipping would change every feature of a frame through its layer norm,
and refusing would leave such a teacher without a cache. The file says which of the two it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.teacher.contract import Teacher
from distill.teacher.frames import FrameGrid
from distill.teacher.layers import Layers
from distill.teacher.windows import hear, spans
from enhance.cache import BoundedFolder, Shelf
from enhance.errors import EnhanceError

log = logging.getLogger("enhance")

NAMES = r"(?:state-\d+|mean-\d+-\d+)-[0-9a-f]{16}"
"""Names of the subfolders: `distill.teacher.features.Features` gives them."""


class FeatureCache(Shelf):
    """Features of clips by hexadecimal key, one memory-mapped array per clip, see `enhance.cache`.

    Once the whole folder is full of what is in use, nothing more is stored.
    """

    def __init__(self, bound: BoundedFolder, name: str) -> None:
        super().__init__(bound, name)
        self.hits = self.misses = self.refused = 0

    def get(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Read-only memory map (T', D), or None; counts a hit or a miss.

        A file that is damaged or of another shape is a miss, to be written anew.
        """
        found = self.read(key)
        if found is None or found.shape != shape or found.dtype not in (np.float16, np.float32):
            self.misses += 1
            return None
        self.hits += 1
        return found

    def put(self, key: str, values: np.ndarray) -> np.ndarray:
        """Store (T', D) and return it as it will be read back.

        Where there is no room, or the disk takes no more, it is not stored: ``refused`` counts it.
        An `EnhanceError` if values are not finite: they would poison every later run.
        """
        if not np.isfinite(values).all():
            raise EnhanceError(
                f"{self.folder}: a feature is not finite, so it was not stored; "
                "the teacher gave NaN or infinity: check its weights and the clip"
            )
        with np.errstate(over="ignore"):
            kept = np.array(values, np.float16, order="C")
        if not np.isfinite(kept).all():
            kept = np.array(values, np.float32, order="C")
        kept.flags.writeable = False  # as what is mapped
        try:
            self.refused += not self.write(key, [kept])
        except EnhanceError as error:
            if not self.refused:
                log.warning("%s; its features are made anew whenever they are needed", error)
            self.refused += 1
        return kept

    @property
    def size_bytes(self) -> int:
        """Bytes in this subfolder."""
        return self.bound.size(self.name)


_FORMAT = 2  # counts up whenever the same audio and teacher would give other features

Device = torch.device | str


class Features:
    """What a frozen teacher makes of whole clips, remembered on disk.

    Methods take a clip as ``wave``, samples (N,) at the teacher's rate, floating point, or where
    they need no samples yet as its ``key``; ``device`` is where the teacher runs if it is asked.
    They raise `EnhanceError` if that is no clip, the states differ in width where they become one,
    or the teacher gives NaN.

    Parameters
    ----------
    layers
        Such as ``last`` or ``first_k:4`` (`distill.teacher.layers.Layers`).
    cache
        Folder, shared by any teachers, layers and processes: each state of a teacher has a
        subfolder, wherever the teacher was found.
    limit_bytes
        Bound on that whole folder (`enhance.cache`); 0 keeps nothing.
    """

    def __init__(
        self, teacher: Teacher, layers: str, cache: Path | str, limit_bytes: float = 20e9
    ) -> None:
        self.teacher = teacher
        self.layers = Layers.parse(layers, teacher.num_layers)
        self.grid = FrameGrid.of_teacher(teacher)
        self._bound = BoundedFolder(cache, limit_bytes, NAMES)
        self._caches: dict[str, FeatureCache] = {}

    @property
    def width(self) -> int:
        """Features D of a frame of `of`; `states` gives states of several widths too."""
        return self.layers.width(self.teacher.widths, self.teacher.name)

    @property
    def cache(self) -> FeatureCache:
        """Where the features of `of` lie."""
        first, last = self.layers.indices[0], self.layers.indices[-1]
        return self._cache(f"state-{first}" if first == last else f"mean-{first}-{last}")

    def of(self, wave: np.ndarray, *, device: Device = "cpu") -> np.ndarray:
        """Features of one whole clip, found or made now, each frame of zero mean, unit variance.

        Shape: (N,) -> float32 (T', D)
        """
        key = self.key(wave)
        return self.normalized(self.kept(key, len(wave), lambda: wave, device))

    def states(self, wave: np.ndarray, *, device: Device = "cpu") -> list[np.ndarray]:
        """Each chosen hidden state of one whole clip, raw; one pass makes all that are missing.

        Shape: (N,) -> (T', D of the state) for each of ``layers.indices``, read-only, half
        precision (single where a value needs it)
        """
        key, frames, chosen = self.key(wave), self.teacher.frames(len(wave)), self.layers.indices
        caches = [self._cache(f"state-{i}") for i in chosen]
        widths = [self.teacher.widths[i] for i in chosen]
        found = [c.get(key, (frames, w)) for c, w in zip(caches, widths, strict=True)]
        missing = [k for k, values in enumerate(found) if values is None]
        if missing:
            made = self._hear(wave, device, lambda hidden: hidden[[chosen[k] for k in missing], 0])
            for k, values in zip(missing, made, strict=True):
                found[k] = caches[k].put(key, values[:, : widths[k]])
        return [values for values in found if values is not None]

    def kept(
        self, key: str, samples: int, wave: Callable[[], np.ndarray], device: Device = "cpu"
    ) -> np.ndarray:
        """The clip's features as the cache keeps them, made now where it has none: ``wave`` gives
        its samples then.

        Shape: -> (T', D), read-only, for `normalized`
        """
        found = self.cache.get(key, (self.teacher.frames(samples), self.width))
        return self.make(key, wave(), device) if found is None else found

    def make(self, key: str, wave: np.ndarray, device: Device = "cpu") -> np.ndarray:
        """As `kept`, by the teacher in any case."""

        def take(hidden: Tensor) -> Tensor:
            if len(self.layers.indices) == 1:
                return hidden[self.layers.indices[0], 0, :, : self.width]
            return self.layers.select(hidden, self.width)[0]

        return self.cache.put(key, self._hear(wave, device, take))

    def normalized(self, kept: np.ndarray) -> np.ndarray:
        """Features of any frames of what `kept` gave.

        Shape: (T, D) -> float32 (T, D)
        """
        values = np.array(kept, np.float32)
        if len(self.layers.indices) > 1:  # a mean, which is normalised
            return values
        return F.layer_norm(torch.from_numpy(values), values.shape[-1:]).numpy()

    @staticmethod
    def key(wave: np.ndarray) -> str:
        """Cache key of a clip: every sample of its audio."""
        if wave.ndim != 1 or wave.dtype.kind != "f":
            raise EnhanceError(
                f"features: a clip is one channel of floating point samples, not {wave.dtype} "
                f"of shape {wave.shape}"
            )
        return hashlib.sha256(np.ascontiguousarray(wave, dtype="<f4").tobytes()).hexdigest()

    def _hear(
        self, wave: np.ndarray, device: Device, take: Callable[[Tensor], Tensor]
    ) -> np.ndarray:
        """By the live teacher, one clip at a time, long ones in windows.

        Never in a batch with others: rounding would then depend on the company, and what is made
        before training would differ from what is made in it.
        """
        waves = torch.from_numpy(np.array(wave, np.float32)).to(device)[None]
        return hear(self.teacher, waves, take).cpu().numpy()

    def _cache(self, what: str) -> FeatureCache:
        if what not in self._caches:
            kind = f"{_FORMAT}|{self.teacher.fingerprint}|{spans(self.teacher)}|{what}"
            name = f"{what}-{hashlib.sha256(kind.encode()).hexdigest()[:16]}"
            self._caches[what] = FeatureCache(self._bound, name)
        return self._caches[what]
