"""Which layers the seeds recommend for which task: CLAIMS of those documents, not reproduced here.

The seeds are the notes this project began with: 000 compares WavLM and wav2vec 2.0 under
domain-adversarial training, 001 is a guide to WavLM, 003 sums up Ashihara et al. (arXiv
2401.17632), 004 sums up Shankar et al. (arXiv 2403.01369). Layer numbers are theirs: 1 is behind
the first block. They do not always agree, and then both rows stand here. `choice` is the nearest
that `distill.teacher.layers.Layers` offers; ``weighted`` in mode concat lets the loss decide
instead.

Importable without torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """One claim."""

    task: str
    """What the features are for."""
    claim: str
    """The layers, as the source has them."""
    choice: str
    """The nearest text of `distill.teacher.layers.Layers`."""
    why: str
    """The reason the source gives."""
    source: str
    """Number of the seed, and section."""


_TABLE = "001, layer selection"
_CONTENT = "001, layer by layer"

ADVICE: tuple[Advice, ...] = (
    Advice("phone recognition", "4-6", "single:5", "low-level phonetic", _TABLE),
    Advice("speech recognition", "6-9", "single:8", "phonetic and lexical", _TABLE),
    Advice("speaker verification", "4-6", "single:5", "acoustic properties", _TABLE),
    Advice("emotion recognition", "8-12", "single:10", "prosodic and semantic", _TABLE),
    Advice("intent classification", "10-12", "single:11", "high-level semantic", _TABLE),
    Advice("semantic tokens (Mimi)", "7", "single:7", "phonetic, early semantic", _TABLE),
    Advice("semantic tokens (Mimi)", "9-12", "single:11", "lexical, semantic", _CONTENT),
    Advice("formants, pitch, prosody", "1-4", "range:1-4", "acoustic features", _CONTENT),
    Advice("phones, their boundaries", "5-8", "single:7", "phonetic features", _CONTENT),
    Advice("words", "9-12", "last_k:4", "lexical and semantic features", _CONTENT),
    Advice("sentence structure (Large)", "13+", "last_k:12", "high-level features", _CONTENT),
    Advice("less codec (wav2vec 2.0)", "lowest 6", "first_k:6", "early layers tell less of it",
           "000, suggestion 3.1"),
    Advice("language (Base; Large)", "about 11; 13-22", "single:11", "refined upwards",
           "003, question 1"),
    Advice("phones in a speaker model", "first block", "single:1", "ECAPA-TDNN has them early",
           "003, mechanism 2"),
    Advice("speaker in a speaker model", "4", "single:4", "the 4th layer stands out",
           "003, question 2"),
    Advice("enhancement, concatenated", "weighted sum", "weighted", "the weights are learned",
           "004, method"),
)  # fmt: skip
"""All claims, in the order of their sources."""


def show() -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "layers", "try", "because", "seed", box=None, header_style="bold")
    for row in ADVICE:
        table.add_row(row.task, row.claim, row.choice, row.why, row.source)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        "Claims of the seeds named (001: WavLM), mostly of 12-layer models; none was reproduced."
    )
