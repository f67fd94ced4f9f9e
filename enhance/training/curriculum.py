"""How mixtures change in the course of a run: a pure function of the step.

So the mixtures of a step are the same for any number of workers and processes, and on resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from enhance.data.mixing_config import MixingConfig
from enhance.errors import EnhanceError

FIXED = ("segment_seconds", "rir_source", "rir_count", "rir_rt60")
"""What a mixer decides once: the shape of a batch, and the rooms."""


@dataclass(frozen=True)
class Knot:
    """What mixtures are like at one step."""

    step: int
    """Counted from the start of the run."""
    mixing: dict[str, Any] = field(default_factory=dict)
    """Fields of `MixingConfig`; others keep their values of the knot before, at the first those of
    `RunConfig.mixing`."""


def knots(mixing: MixingConfig, curriculum: Sequence[Knot]) -> list[tuple[int, MixingConfig]]:
    """Steps and the configurations reached there, the first at step 0.

    Raises
    ------
    EnhanceError
        If steps do not rise, a field is unknown or has a wrong value, or one of `FIXED` changes.
    """
    from enhance.settings import merge, parse, to_dict

    found = [(0, mixing)]
    for number, knot in enumerate(curriculum):
        where = f"curriculum[{number}]"
        if knot.step < found[-1][0] or (number and knot.step == found[-1][0]):
            raise EnhanceError(f"{where}: step {knot.step}: steps must rise, from 0 on")
        found.append((
            knot.step,
            parse(MixingConfig, merge(to_dict(found[-1][1]), knot.mixing), f"{where}: mixing"),
        ))  # fmt: skip
        for name in FIXED:
            if getattr(found[-1][1], name) != getattr(mixing, name):
                raise EnhanceError(f"{where}: mixing.{name} must be the same for the whole run")
    return found[1:] if curriculum and curriculum[0].step == 0 else found


def mixing_at(found: Sequence[tuple[int, MixingConfig]], step: int) -> MixingConfig:
    """The configuration with which the mixtures of a step are drawn.

    Parameters
    ----------
    found
        What `knots` returned.
    step
        Steps that were finished before: 0 in the first.

    Returns
    -------
    MixingConfig
        Between two knots numbers change in a straight line, ranges at both ends; what counts
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
