"""How an analysis does its work: what each of them is told beside its question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enhance.files import cache_folder
from enhance.parallel import Workers


@dataclass(frozen=True)
class Work(Workers):
    """Seed, share of the clips, feature cache and workers; the command line makes it once."""

    seed: int = 0
    """Of what is drawn."""
    limit: int = 0
    """Clips, evenly over speakers; 0 for all. An analysis that counts otherwise has its own."""
    features: Path | None = None
    """Folder of the feature cache; None for the user's."""

    @property
    def cache(self) -> Path:
        """That folder, the same for all workers."""
        return (self.features or cache_folder("features")).resolve()
