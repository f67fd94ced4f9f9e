"""Disk cache of features: one memory-mapped half-precision array per clip, see `enhance.cache`.

Half precision rounds a value by at most 2**-11 of itself. What is lost below its smallest steps
(3e-8) is nothing beside the 1e-5 that layer norm adds to a variance. Where a value passes its
range (65504), as outlier features of large transformers may in single channels, the clip is
stored in single precision: clipping would change every feature of a frame through its layer norm,
and refusing would leave such a teacher without a cache. The file says which of the two it is.
"""

from __future__ import annotations

import logging

import numpy as np

from enhance.cache import BoundedFolder, Shelf
from enhance.errors import EnhanceError

log = logging.getLogger("enhance")

NAMES = r"(?:state-\d+|mean-\d+-\d+)-[0-9a-f]{16}"
"""Names of the subfolders: `distill.teacher.features.Features` gives them."""


class FeatureCache(Shelf):
    """Features of clips by hexadecimal key.

    Parameters
    ----------
    bound
        The cache folder. Once it is full of what is in use, nothing more is stored.
    name
        Of the subfolder.
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

        Raises
        ------
        EnhanceError
            If values are not finite: they would poison every later run.
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
