"""Decoded clips on disk, so that only the first start on a corpus decodes it.

One shelf (see `enhance.cache`) holds one set of clips: their samples one after another (int16, as
`ClipStore` has them), and their lengths. Its name is a hash of everything the samples depend on.
Processes map the samples into memory and share their pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Sequence

import numpy as np

from enhance.cache import BoundedFolder, Shelf
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import cache_folder

log = logging.getLogger("enhance")

DECODING = 1
"""Raised whenever `ClipStore` makes other samples of the same file."""


class DecodedCache:
    """The shelf of one set of clips, to be loaded or made.

    ``limit_gb`` bounds all such shelves together (10^9 bytes); the longest unused are removed for a
    new one.
    """

    def __init__(self, clips: Sequence[Clip], sample_rate: int, limit_gb: float) -> None:
        self._clips = tuple(clips)
        self._sample_rate = sample_rate
        self._limit = limit_gb * 1e9
        self._key = self._fingerprint()
        # A removed one stays valid where it is mapped: nothing has to wait until it is unused.
        folder = cache_folder("decoded")
        bound = BoundedFolder(folder, self._limit, "[0-9a-f]{32}", in_use_seconds=0)
        self._shelf = Shelf(bound, self._key)
        self.folder = self._shelf.folder

    def load(self) -> list[np.ndarray] | None:
        """Samples of each clip, int16 (n,), read-only and mapped; None where they are not kept."""
        samples, lengths = (self._shelf.read(key) for key in ("samples", "lengths"))
        if samples is None or lengths is None:
            return None
        fits = samples.dtype == np.int16 and lengths.sum() == len(samples)
        if len(lengths) != len(self._clips) or not fits:
            log.warning(
                "%s: cannot be used (other clips) and is made anew", self._shelf.path("samples")
            )
            return None
        return np.split(samples.view(np.ndarray), np.cumsum(lengths)[:-1])

    def save(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Keep the samples, int16 (n,) for each clip; give them back, mapped if all went well.

        Where they cannot be kept, a warning says why, and they come back as they were given.
        """
        size = sum(wave.nbytes for wave in waves)
        why = ""
        if size > self._limit:
            why = f"it takes {size / 1e9:.3g} GB, data.cache_gb allows {self._limit / 1e9:.3g}"
        elif self._fingerprint() != self._key:
            why = "its files have just changed"
        else:
            lengths = np.array([len(wave) for wave in waves])
            try:
                kept = self._shelf.write("samples", waves)
                kept = kept and self._shelf.write("lengths", [lengths])
                why = "" if kept else f"no room can be made for it in {self.folder.parent}"
            except (EnhanceError, OSError) as error:
                why = str(error)
        if why:
            log.warning("decoded audio is not kept on disk, the next start decodes anew: %s", why)
            return list(waves)
        log.info("%s: %.3g GB of decoded audio kept for the next start", self.folder, size / 1e9)
        return self.load() or list(waves)

    def _fingerprint(self) -> str:
        """Hash of what the samples depend on: the files, the rate and the decoders."""
        import soundfile
        import soxr

        rows: list[object] = [
            [DECODING, self._sample_rate, sys.byteorder, np.__version__],
            [soundfile.__version__, soundfile.__libsndfile_version__],
            [soxr.__version__, soxr.__libsoxr_version__],
        ]
        for clip in self._clips:
            about = None
            with contextlib.suppress(OSError):  # who decodes it says what is wrong
                found = clip.path.stat()
                about = [found.st_size, found.st_mtime_ns]
            rows.append([str(clip.path), about])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]
