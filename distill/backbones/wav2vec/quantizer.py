"""Vector quantisation of features: Gumbel-softmax and k-means codebooks.

Source: Baevski et al., "vq-wav2vec", 2020, sections 3.1 to 3.3, with the constants of the public
fairseq code. A feature vector is cut into G groups, each group takes one of V codewords, and the
chosen codewords laid side by side are the quantised vector; the groups may share a codebook.

Gumbel: a projection scores the codewords; in training noise is added, the largest score is taken,
and the gradient goes through the softmax at the present temperature (straight-through). K-means:
the nearest codeword is taken, the gradient goes past it to the features, and two terms pull
codewords to features and (gamma times) features to codewords.

In eval mode both are deterministic: largest score, nearest codeword.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.training.accuracy import perplexity
from enhance.errors import EnhanceError


@dataclass(frozen=True)
class Quantized:
    """What a quantiser made of a batch."""

    values: Tensor
    """Codewords, (B, T, C)."""
    codes: Tensor
    """Which codewords, int64 (B, T, G), each from 0 to V - 1."""
    code_perplexity: Tensor
    """Number of codewords in even use, summed over the groups: G to G * V. Scalar, no gradient."""
    diversity: Tensor | None = None
    """`diversity_loss` (Gumbel only). Scalar, with gradient."""
    codebook_loss: Tensor | None = None
    """Both pulling terms of k-means; to be added to the objective with weight 1."""


def code_use(codes: Tensor, size: int) -> Tensor:
    """How often each codeword of each group was taken; add over batches, then `perplexity`.

    Shape: int64 (B, T, G) to (G, V).
    """
    groups = codes.shape[-1]
    places = codes.reshape(-1, groups) + torch.arange(groups, device=codes.device) * size
    return torch.bincount(places.flatten(), minlength=groups * size).view(groups, size)


def diversity_loss(soft: Tensor) -> Tensor:
    """wav2vec 2.0's share of the codebooks' entries that are not in even use: (G V - P) / (G V).

    P are the perplexities of the mean softmax over M frames, summed over the groups.

    Shape: (M, G, V) to ().
    """
    entries = soft.shape[1] * soft.shape[2]
    return (entries - perplexity(soft.mean(0)).sum()) / entries


class Quantizer(nn.Module):
    """What both quantisers share: features of ``width`` C in G ``groups`` of V codewords (``size``)
    each, perhaps of one ``shared`` codebook.
    """

    def __init__(self, width: int, size: int, groups: int, shared: bool = False) -> None:
        super().__init__()
        if size < 1 or groups < 1 or width % groups:
            raise EnhanceError(
                f"quantiser of width {width}: cannot be cut into {groups} groups of {size} codes"
            )
        self.size, self.groups = size, groups
        self.codebook = nn.Parameter(torch.empty(1 if shared else groups, size, width // groups))

    def words(self) -> Tensor:
        """Codewords of every group, repeated where they are shared.

        Shape: (G, V, C / G).
        """
        return self.codebook.expand(self.groups, -1, -1)

    def set_step(self, step: int) -> None:
        """Take what depends on the optimiser step: here nothing."""

    def _use(self, codes: Tensor) -> Tensor:
        """Code perplexity of a batch. Shape: (B, T, G) to ()."""
        share = code_use(codes, self.size).float() / max(codes.shape[0] * codes.shape[1], 1)
        return perplexity(share).sum()


class GumbelQuantizer(Quantizer):
    """Gumbel-softmax quantiser.

    Parameters
    ----------
    depth
        Linear layers of the scores; all but the last are twice as wide as the features.
    act
        Between those layers.
    temperature
        First value, last value, factor per step.
    """

    def __init__(
        self,
        width: int,
        size: int,
        groups: int,
        shared: bool = False,
        *,
        depth: int = 1,
        act: nn.Module | None = None,
        temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995),
    ) -> None:
        super().__init__(width, size, groups, shared)
        start, end, decay = temperature
        if depth < 1 or not 0 < end <= start or not 0 < decay <= 1:
            raise EnhanceError(
                f"Gumbel quantiser: depth {depth} must be 1 or more, temperatures {start} to "
                f"{end} must fall and stay above 0, their factor {decay} must lie in (0, 1]"
            )
        self.schedule = temperature
        self.temperature = start
        inner = 2 * width
        layers: list[nn.Module] = []
        for i in range(depth - 1):
            layers += [nn.Linear(inner if i else width, inner), act or nn.GELU()]
        last = nn.Linear(inner if depth > 1 else width, groups * size)
        self.project = nn.Sequential(*layers, last)
        nn.init.uniform_(self.codebook)
        if depth == 1:
            nn.init.normal_(last.weight)
            nn.init.zeros_(last.bias)

    def set_step(self, step: int) -> None:
        """Take the temperature of an optimiser step: start * decay^step, not below the end."""
        start, end, decay = self.schedule
        self.temperature = max(start * decay**step, end)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise features (B, T, C); ``generator`` draws the noise in training, None torch's."""
        scores = self.project(features).unflatten(-1, (self.groups, self.size)).float()
        noisy = scores
        if self.training:
            noise = torch.empty_like(scores).exponential_(generator=generator)
            noisy = (scores - noise.log()) / self.temperature
        codes = noisy.argmax(-1)  # (B, T, G)
        choice = F.one_hot(codes, self.size).to(scores)  # (B, T, G, V)
        if self.training:  # value of the one-hot, gradient of the softmax
            soft = noisy.softmax(-1)
            choice = choice - soft.detach() + soft
        values = torch.einsum("btgv,gvd->btgd", choice, self.words())
        use = self._use(scores.detach().argmax(-1))
        diversity = diversity_loss(scores.softmax(-1).flatten(0, 1))
        return Quantized(values.flatten(2), codes, use, diversity=diversity)


class KmeansQuantizer(Quantizer):
    """Nearest-codeword quantiser.

    The features first pass a 1 x 1 convolution and a group norm, one norm per group and over TIME,
    so that clips of unequal length must not be padded to one batch. ``gamma`` is the weight of the
    commitment term, which pulls features to codewords.
    """

    def __init__(
        self, width: int, size: int, groups: int, shared: bool = False, *, gamma: float = 0.25
    ) -> None:
        super().__init__(width, size, groups, shared)
        self.gamma = gamma
        self.project = nn.Conv1d(width, width, 1, groups=groups, bias=False)
        self.norm = nn.GroupNorm(groups, width)
        nn.init.normal_(self.codebook, std=0.01)

    def encode(self, features: Tensor) -> Tensor:
        """What is compared with the codewords. Shape: (B, T, C) to (B, T, C)."""
        made: Tensor = self.norm(self.project(features.transpose(1, 2)))
        return made.transpose(1, 2).float()

    @torch.no_grad()
    def start_from(self, features: Tensor, generator: torch.Generator | None = None) -> None:
        """Make codewords of encoded frames drawn from a batch, before training.

        The papers start from small random codewords and a learning rate of 1e-5. At the higher
        rates that a short training needs, all frames then run to one of them within a few steps.

        Shape: (B, T, C)
        """
        parts = self.encode(features).flatten(0, 1).unflatten(-1, (self.groups, -1))  # (B T, G, d)
        if len(self.codebook) == 1:  # one book for all groups
            parts = parts.flatten(0, 1)[:, None]
        for book, frames in zip(self.codebook, parts.unbind(1), strict=True):
            order = torch.randperm(len(frames), generator=generator).to(frames.device)
            taken = order.repeat(-(-self.size // len(order)))[: self.size]
            book.copy_(frames[taken])

    def forward(self, features: Tensor) -> Quantized:
        """Quantise features (B, T, C)."""
        encoded = self.encode(features)  # (B, T, C)
        words = self.words()
        parts = encoded.unflatten(-1, (self.groups, -1))  # (B, T, G, C / G)
        with torch.no_grad():  # without the matrix product: its rounding could swap near codewords
            distance = torch.cdist(
                parts.permute(2, 0, 1, 3).flatten(1, 2),
                words,
                compute_mode="donot_use_mm_for_euclid_dist",
            )  # (G, B T, V)
            codes = distance.argmin(-1).T.unflatten(0, features.shape[:2])  # (B, T, G)
        chosen = words[torch.arange(self.groups, device=codes.device), codes].flatten(2)
        loss = F.mse_loss(chosen, encoded.detach())
        loss = loss + self.gamma * F.mse_loss(encoded, chosen.detach())
        values = chosen.detach() + (encoded - encoded.detach())
        return Quantized(values, codes, self._use(codes), codebook_loss=loss)
