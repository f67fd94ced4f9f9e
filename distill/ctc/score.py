"""Error rates of recognised text.

Edits (substitutions, insertions, deletions) over the tokens of the references, all clips
together; 95 % intervals over clips, whose errors are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.training.accuracy import interval
from enhance.errors import EnhanceError, require

Text = Sequence[str]
"""Tokens or words."""


def edits() -> Callable[[Text, Text], int]:
    """Torchaudio's edit distance of two sequences.

    An `EnhanceError` if torchaudio is missing, or does not fit the torch there.
    """
    require("train", "torchaudio")
    try:
        from torchaudio.functional import edit_distance
    except (ImportError, RuntimeError, OSError) as error:
        raise EnhanceError(
            f"torchaudio cannot be imported ({str(error).splitlines()[0]}); install the version "
            "that fits torch: pip install --force-reinstall 'enhance[train]'"
        ) from error
    distance: Callable[[Text, Text], int] = edit_distance
    return distance


def error_rate(references: Sequence[Text], recognised: Sequence[Text]) -> dict[str, Any]:
    """Errors over reference tokens, of texts of each clip.

    ``mean``, ``low`` and ``high`` (shares; over 1 where more is inserted than there is),
    ``errors``, ``tokens``, ``clips``. An `EnhanceError` if the references hold no token.
    """
    distance = edits()
    pairs = list(zip(references, recognised, strict=True))
    errors = np.array([distance(list(a), list(b)) for a, b in pairs], np.float64)
    counts = np.array([len(a) for a, _ in pairs], np.float64)
    if not counts.sum():
        raise EnhanceError("error rate: the references hold no token")
    totals = {"errors": int(errors.sum()), "tokens": int(counts.sum()), "clips": len(pairs)}
    return {**interval(errors, counts), **totals}


def best_constant(texts: Sequence[Text]) -> list[str]:
    """The one answer that serves best where nothing is heard.

    Of 16 training texts (tokens of each), spread over their lengths, the one with fewest edits to
    64 others, spread alike: what an error rate must beat to mean anything.
    """
    distance = edits()
    ordered = sorted((list(text) for text in texts), key=lambda text: (len(text), text))

    def spread(count: int) -> list[list[str]]:
        places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
        return [ordered[i] for i in places]

    judges = spread(64)
    return min(spread(16), key=lambda text: sum(distance(judge, text) for judge in judges))
