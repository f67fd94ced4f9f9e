"""Quantisers against plain loops, and their gradients against ones written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.backbones.wav2vec.quantizer import (
    GumbelQuantizer,
    KmeansQuantizer,
    code_use,
    perplexity,
)
from enhance.errors import EnhanceError

WIDTH, SIZE, GROUPS = 6, 5, 2


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gumbel(**options) -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(WIDTH, SIZE, GROUPS, **options)


def scores_of(quantizer: GumbelQuantizer, features: Tensor) -> np.ndarray:
    """Scores (B, T, G, V) by numpy; depth 1 or 2 with ReLU."""
    x = features.detach().numpy().astype(np.float64)
    linear = [m for m in quantizer.project if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if i < len(linear) - 1:
            x = np.maximum(x, 0)
    return x.reshape(*x.shape[:2], GROUPS, SIZE)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def spread(p: np.ndarray) -> float:
    """Sum over the groups of exp(entropy)."""
    return sum(math.exp(-sum(v * math.log(v) for v in row if v > 0)) for row in p)


@pytest.mark.parametrize(("shared", "depth"), [(False, 1), (True, 2)])
def test_gumbel_in_eval(shared: bool, depth: int) -> None:
    quantizer = gumbel(shared=shared, depth=depth, act=torch.nn.ReLU()).eval()
    assert quantizer.codebook.shape == (1 if shared else GROUPS, SIZE, WIDTH // GROUPS)
    features = noise(3, 7, WIDTH)
    found = quantizer(features)
    scores = scores_of(quantizer, features)
    book = quantizer.codebook.detach().numpy()
    use = np.zeros((GROUPS, SIZE))
    for b in range(3):
        for t in range(7):
            for g in range(GROUPS):
                best = int(scores[b, t, g].argmax())
                use[g, best] += 1 / 21
                assert int(found.codes[b, t, g]) == best
                part = found.values[b, t, g * 3 : g * 3 + 3].detach().numpy()
                np.testing.assert_allclose(part, book[0 if shared else g, best], atol=1e-6)
    assert found.code_perplexity.item() == pytest.approx(spread(use), rel=1e-4)
    mean = softmax(scores).mean((0, 1))
    assert found.diversity.item() == pytest.approx((10 - spread(mean)) / 10, rel=1e-4)
    assert found.codebook_loss is None
    assert torch.equal(quantizer(features).values, found.values)  # nothing is drawn


def test_gumbel_gradient_is_that_of_the_softmax() -> None:
    """Straight-through: d value / d score = codeword sum over the softmax's Jacobian."""
    quantizer = gumbel().train()
    quantizer.temperature = 0.7
    features = noise(1, 4, WIDTH).requires_grad_()
    upstream = noise(1, 4, WIDTH, seed=3)
    found = quantizer(features, seeded())
    (found.values * upstream).sum().backward()

    drawn = torch.empty(1, 4, GROUPS, SIZE).exponential_(generator=seeded()).numpy()
    noisy = (scores_of(quantizer, features) - np.log(drawn)) / 0.7
    soft, book = softmax(noisy), quantizer.codebook.detach().numpy()
    codes = noisy.argmax(-1)
    np.testing.assert_array_equal(found.codes.numpy(), codes)
    to_scores, to_book = np.zeros((4, GROUPS, SIZE)), np.zeros_like(book)
    for t in range(4):
        for g in range(GROUPS):
            up = upstream[0, t, g * 3 : g * 3 + 3].numpy()
            np.testing.assert_allclose(  # the value is the codeword itself, no mixture
                found.values[0, t, g * 3 : g * 3 + 3].detach().numpy(), book[g, codes[0, t, g]],
                atol=1e-5,
            )  # fmt: skip
            to_book[g, codes[0, t, g]] += up
            to_choice = book[g] @ up  # (V,)
            p = soft[0, t, g]
            to_scores[t, g] = p * (to_choice - (p * to_choice).sum()) / 0.7
    np.testing.assert_allclose(quantizer.codebook.grad.numpy(), to_book, atol=1e-5)
    weight = quantizer.project[0].weight.detach().numpy()
    np.testing.assert_allclose(
        features.grad[0].numpy(), to_scores.reshape(4, -1) @ weight, atol=1e-5
    )


def test_gumbel_draws_codewords_by_their_probability() -> None:
    quantizer = gumbel().train()
    features = noise(1, 1, WIDTH).expand(1, 4000, WIDTH) * 0.3
    expected = softmax(scores_of(quantizer, features[:, :1]))[0, 0]
    codes = quantizer(features, seeded()).codes
    share = code_use(codes, SIZE).numpy() / 4000
    assert np.abs(share - expected).max() < 4 * 0.5 / math.sqrt(4000)
    assert torch.equal(quantizer(features, seeded()).codes, codes)
    assert not torch.equal(quantizer(features, seeded(8)).codes, codes)


def test_temperature() -> None:
    quantizer = gumbel()
    assert quantizer.temperature == 2.0
    quantizer.set_step(1000)
    assert quantizer.temperature == pytest.approx(2 * 0.999995**1000)
    quantizer.set_step(10_000_000)
    assert quantizer.temperature == 0.5


def test_diversity_has_a_gradient_towards_even_use() -> None:
    quantizer, features = gumbel(), noise(2, 50, WIDTH)
    optimizer = torch.optim.SGD(quantizer.project.parameters(), 1.0)
    before = quantizer(features).diversity
    for _ in range(20):
        optimizer.zero_grad()
        quantizer(features, seeded()).diversity.backward()
        optimizer.step()
    assert quantizer(features).diversity < 0.5 * before


@pytest.mark.parametrize("shared", [False, True])
def test_kmeans_by_plain_loops(shared: bool) -> None:
    torch.manual_seed(0)
    quantizer = KmeansQuantizer(WIDTH, SIZE, GROUPS, shared=shared, gamma=0.3)
    with torch.no_grad():
        quantizer.codebook.copy_(noise(*quantizer.codebook.shape))
        quantizer.norm.weight.copy_(1 + 0.3 * noise(WIDTH))
        quantizer.norm.bias.copy_(0.3 * noise(WIDTH, seed=2))
    features = noise(2, 7, WIDTH).requires_grad_()
    upstream = noise(2, 7, WIDTH, seed=3)
    found = quantizer(features)
    book = quantizer.codebook.detach().numpy().astype(np.float64)
    kernel = quantizer.project.weight.detach().numpy()[..., 0].astype(np.float64)  # (C, C / G)
    encoded, values = np.zeros((2, 7, WIDTH)), np.zeros((2, 7, WIDTH))
    use, to_book = np.zeros((GROUPS, SIZE)), np.zeros_like(book)
    for b in range(2):
        for g in range(GROUPS):
            part = slice(g * 3, g * 3 + 3)
            y = features[b, :, part].detach().numpy() @ kernel[part].T  # (T, C / G)
            y = (y - y.mean()) / math.sqrt(y.var() + 1e-5)  # one norm per group, over time too
            y = y * quantizer.norm.weight[part].detach().numpy()
            encoded[b, :, part] = y + quantizer.norm.bias[part].detach().numpy()
            for t in range(7):
                words = book[0 if shared else g]
                near = ((words - encoded[b, t, part]) ** 2).sum(-1).argmin()
                assert int(found.codes[b, t, g]) == near
                use[g, near] += 1 / 14
                values[b, t, part] = words[near]
                to_book[0 if shared else g, near] += (
                    2 * (words[near] - encoded[b, t, part]) / encoded.size
                )
    np.testing.assert_allclose(found.values.detach().numpy(), values, atol=1e-5)
    error = ((values - encoded) ** 2).mean()
    assert found.codebook_loss.item() == pytest.approx(1.3 * error, rel=1e-4)
    assert found.code_perplexity.item() == pytest.approx(spread(use), rel=1e-4)
    assert found.diversity is None

    # The gradient of a loss on the values passes to the normalised features as it is, the
    # commitment term adds to it, and the codebook hears of its own term only.
    reached: list[Tensor] = []
    quantizer.norm.register_full_backward_hook(lambda _, __, out: reached.append(out[0]))
    again = quantizer(features)
    ((again.values * upstream).sum() + again.codebook_loss).backward()
    expected = upstream.numpy() + 0.3 * 2 * (encoded - values) / encoded.size
    np.testing.assert_allclose(reached[0].transpose(1, 2).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(quantizer.codebook.grad.numpy(), to_book, atol=1e-5)
    assert features.grad.abs().sum() > 0


def test_kmeans_loss_draws_codewords_to_the_features() -> None:
    torch.manual_seed(0)
    quantizer = KmeansQuantizer(WIDTH, SIZE, GROUPS)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.05)
    features, losses = noise(2, 50, WIDTH), []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(quantizer(features).codebook_loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("shared", [False, True])
def test_kmeans_starts_from_frames(shared: bool) -> None:
    torch.manual_seed(0)
    quantizer, features = KmeansQuantizer(WIDTH, 8, GROUPS, shared=shared), noise(2, 10, WIDTH)
    quantizer.start_from(features, seeded())
    frames = quantizer.encode(features).detach().reshape(20, GROUPS, 3)
    for g, book in enumerate(quantizer.codebook.detach()):
        allowed = frames.reshape(-1, 3) if shared else frames[:, g]
        found = (book[:, None] == allowed).all(-1)  # (8, frames)
        assert (found.sum(1) == 1).all()
        assert int(found.any(0).sum()) == 8  # eight different frames
    assert quantizer(features).code_perplexity > 8
    many = KmeansQuantizer(WIDTH, 50, GROUPS)  # more codewords than frames
    many.start_from(features, seeded())
    assert many.codebook.isfinite().all()


def test_perplexity_and_use() -> None:
    codes = torch.tensor([[[0, 4], [0, 1]], [[2, 4], [2, 3]]])
    assert code_use(codes, 5).tolist() == [[2, 0, 2, 0, 0], [0, 1, 0, 1, 2]]
    assert perplexity(torch.full((8,), 1 / 8)).item() == pytest.approx(8, rel=1e-5)
    assert perplexity(torch.tensor([1.0, 0.0])).item() == pytest.approx(1, abs=1e-5)


def test_refusals() -> None:
    with pytest.raises(EnhanceError, match="groups"):
        KmeansQuantizer(7, 5, 2)
    with pytest.raises(EnhanceError, match="depth"):
        GumbelQuantizer(6, 5, 2, depth=0)
    with pytest.raises(EnhanceError, match="temperatures"):
        GumbelQuantizer(6, 5, 2, temperature=(0.5, 2.0, 0.9))
