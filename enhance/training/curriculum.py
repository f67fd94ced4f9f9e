"""How mixtures change in the course of a run: a pure function of the step.

So the mixtures of a step are the same for any number of workers and processes, and on resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from enhance.config.mixing import MixingConfig


def mixing_at(found: Sequence[tuple[int, MixingConfig]], step: int) -> MixingConfig:
    """The configuration with which the mixtures of a step are drawn.

    ``found`` is what `enhance.config.knots` returned; ``step`` steps were finished before, 0 in the
    first. Between two knots numbers change in a straight line, ranges at both ends; what counts
    (`noise_layers`, `babble_voices`) changes at the knot. Behind the last all stays.
    """
    after = next((i for i, (at, _) in enumerate(found) if at > step), None)
    if after is None:
        return found[-1][1]
    (begin, old), (end, new) = found[after - 1], found[after]
    share = (step - begin) / (end - begin)
    return replace(old, **{
        name: _between(getattr(old, name), getattr(new, name), share)
        for name in (f.name for f in fields(MixingConfig))
        if getattr(old, name) != getattr(new, name)
    })  # fmt: skip


def widest(found: Sequence[tuple[int, MixingConfig]]) -> MixingConfig:
    """The first configuration with each probability at its highest: what a mixer must be able to
    draw."""
    names = [f.name for f in fields(MixingConfig) if f.name.endswith("_probability")]
    highest = {name: max(getattr(mixing, name) for _, mixing in found) for name in names}
    return replace(found[0][1], **highest)


def _between(old: Any, new: Any, share: float) -> Any:
    if isinstance(old, tuple):
        return tuple(_between(a, b, share) for a, b in zip(old, new, strict=True))
    return old + share * (new - old) if isinstance(new, float) else old
