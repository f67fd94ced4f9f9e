"""Disk cache of targets: one memory-mapped half-precision .npy per clip.

Half precision, because targets are layer-normalised: no value exceeds sqrt(D) (28 at D = 768), so
that nothing overflows, and the relative error is at most 2**-11. An L1 loss near 0.5 moves by
less than 1e-3 of itself, its gradient only where prediction and target agree to four digits; the
disk holds half as much (77 kB per second of audio at D = 768 and 50 frames per second).

One file per clip, because a file is whole or absent (written beside, then renamed): Ctrl-C and
several processes at once need no lock, and what is there counts in the next run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enhance.errors import EnhanceError
from enhance.files import atomic


class TargetCache:
    """Arrays by name in a folder, with a bound on the bytes it holds.

    Parameters
    ----------
    folder
        Where the files lie; made when the first is written.
    limit_bytes
        Once the folder holds this much, nothing more is stored (and nothing is removed: which
        clip comes next is random, so that dropping one to keep another gains nothing).
    """

    def __init__(self, folder: Path | str, limit_bytes: float = 20e9) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        self.refused = 0
        self.size_bytes = sum(path.stat().st_size for path in self.folder.glob("*/*.npy"))

    def path(self, key: str) -> Path:
        """File of a key (hexadecimal)."""
        return self.folder / key[:2] / f"{key}.npy"

    def holds(self, key: str) -> bool:
        """Whether the key is there, without counting a hit or a miss."""
        return self.path(key).is_file()

    def get(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Read-only memory map float16 (T', D), or None; counts a hit or a miss.

        A file that is damaged or of another shape is a miss, to be written anew.
        """
        try:
            found = np.load(self.path(key), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            found = None
        if found is None or found.shape != shape or found.dtype != np.float16:
            self.misses += 1
            return None
        self.hits += 1
        return found

    def put(self, key: str, values: np.ndarray) -> np.ndarray:
        """Store (T', D) and return it as it will be read back, float16.

        Raises
        ------
        EnhanceError
            If values are not finite (they would poison every later run), or on a disk error.
        """
        half = np.ascontiguousarray(values, dtype=np.float16)
        if not np.isfinite(half).all():
            raise EnhanceError(
                f"{self.folder}: a target is not finite, so it was not stored; "
                "the teacher gave NaN or infinity: check its weights and the clip"
            )
        size = half.nbytes + 128
        if self.size_bytes + size > self.limit_bytes:
            self.refused += 1
            return half
        with atomic(self.path(key)) as temporary, temporary.open("wb") as file:
            np.save(file, half, allow_pickle=False)
        self.size_bytes += size
        return half

    @property
    def hit_rate(self) -> float:
        """Hits over requests so far; 0 before the first."""
        return self.hits / max(self.hits + self.misses, 1)
