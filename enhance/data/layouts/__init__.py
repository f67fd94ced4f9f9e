"""Published corpora as they are unpacked, made into what training and evaluation read.

Sources: VoiceBank-DEMAND, Valentini-Botinhao et al. 2016, "Investigating RNN-based speech
enhancement methods for noise-robust text-to-speech"; DNS Challenge, Reddy et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enhance.data.layouts import dns, voicebank
from enhance.data.layouts.parts import Found
from enhance.errors import EnhanceError
from enhance.files import atomic_folder, is_folder, resolved

LAYOUTS: dict[str, Callable[[Path, Path, bool], list[Found]]] = {
    "voicebank": voicebank.import_layout,
    "dns": dns.import_layout,
}
"""Folder of the corpus, folder to fill, no progress bar: what was made there."""


def import_layout(
    layout: str, source: Path | str, folder: Path | str, *, force: bool = False, quiet: bool = False
) -> list[Found]:
    """Make a folder of manifests and evaluation sets; what ``enhance data layout`` does.

    Nothing is copied: manifests name the files where they are, evaluation sets link to them. The
    noise of VoiceBank-DEMAND, which comes mixed only, is computed and written.

    Parameters
    ----------
    layout
        A name of `LAYOUTS`.
    source
        Where the corpus was unpacked; it must stay there.
    folder
        To be made; ``force`` replaces what stands there.

    Raises
    ------
    EnhanceError
        If the name is unknown, nothing of the layout is there, or something stands at ``folder``.
    """
    if layout not in LAYOUTS:
        raise EnhanceError(f"{layout}: no known layout; give one of {', '.join(LAYOUTS)}")
    if not is_folder(source):
        raise EnhanceError(f"{source}: no such folder")
    holds = ("train", "test*")
    with atomic_folder(folder, holds=holds, reads=[Path(source)], force=force) as place:
        return LAYOUTS[layout](resolved(source), resolved(place), quiet)
