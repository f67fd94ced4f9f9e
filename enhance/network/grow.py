"""A larger dual-path network that begins as a smaller one: the same output, more to learn with.

Or as one of more blocks, of which it takes the first; what it lacks then, training has to make up
for.

After Chen, Goodfellow and Shlens, "Net2Net: accelerating learning via knowledge transfer", ICLR
2016, by zeros and not by copies: what is new hears what was there, but what was there does not hear
what is new until training has moved the weights between them. A new block of two paths, being
residual, is nothing as long as its norms scale by zero.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from enhance.config import GcrnConfig
from enhance.network.dual_path import GATES
from enhance.network.gcrn import Gcrn

_HALVES = re.compile(r"(encoder|decoders)\..*\.conv\.")
_SKIPS = re.compile(r"decoders\..*\.conv\.weight|rnns\.\d+\.mix_out\.weight")
_GATES = re.compile(r"rnns\.\d+\.(time|mix\.rnn)\.")
_SWITCHES = re.compile(r"rnns\.\d+\.(time_norm|mix_norm)\.weight")


def can_hold(large: GcrnConfig, small: GcrnConfig) -> bool:
    """Whether `grow` knows how: two paths with recurrences, as many layers of convolutions, and
    channels and units no fewer.
    """
    same = replace(large, channels=small.channels, hidden=small.hidden, rnn_layers=small.rnn_layers)
    return (
        same == small
        and (small.bottleneck, small.mixing) == ("dual_path", "recurrent")
        and not small.extra_features
        and len(large.channels) == len(small.channels)
        and all(a >= b for a, b in zip(large.channels, small.channels, strict=True))
        and large.hidden >= small.hidden
    )


@torch.no_grad()
def grow(large: Gcrn, small: Gcrn) -> None:
    """Give ``large`` the weights of ``small``, so that both have the same output.

    What is new keeps the random weights that it has; blocks of which ``large`` has fewer are left
    out, and the output is another then. See `can_hold` for what fits.
    """
    gates = GATES[large.config.cell]
    theirs = small.state_dict()
    for name, x in large.state_dict().items():
        if name in theirs:
            # Groups of units that lie one behind the other: halves of a gated layer, gates of a
            # cell, and as inputs what was joined (a skip, the two directions).
            outputs = 2 if _HALVES.match(name) else gates if _GATES.match(name) else 1
            inputs = 2 if _SKIPS.match(name) else 1
            transposed = name.startswith("decoders") and x.ndim == 4
            _embed(x, theirs[name], (inputs, outputs) if transposed else (outputs, inputs),
                   0 if transposed else 1)  # fmt: skip
        elif _SWITCHES.fullmatch(name):
            x.zero_()


def _embed(x: Tensor, old: Tensor, groups: tuple[int, int], inputs: int) -> None:
    """Write ``old`` into ``x``; what was there gets nothing from inputs that are new.

    ``groups`` are those of dimensions 0 and 1, ``inputs`` is the dimension of inputs.
    """
    if not x.ndim:
        x.copy_(old)
        return
    places = [_places(o, n, g) for o, n, g in zip(old.shape, x.shape, groups, strict=False)]
    if x.ndim == 1:
        x[places[0]] = old
        return
    rows, columns = places[:2]
    if inputs:
        x[rows] = 0
    else:
        x[:, columns] = 0
    x[rows[:, None], columns] = old


def _places(old: int, new: int, groups: int) -> Tensor:
    """Where ``old`` units in equal groups lie among ``new`` ones."""
    each = torch.arange(old // groups)
    return torch.cat([each + group * (new // groups) for group in range(groups)])
