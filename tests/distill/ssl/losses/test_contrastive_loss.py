"""wav2vec 2.0's losses against plain loops and against transformers' own forward pass."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from distill.backbones import import_transformers
from distill.backbones.wav2vec.quantizer import diversity_loss
from distill.ssl.families.transformer import Architecture
from distill.ssl.losses import contrastive
from distill.ssl.losses.masked_units import span_mask
from distill.training.accuracy import Tally, code_usage, perplexity

M, K, D = 9, 6, 5


def drawn_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    """Context, targets, codes and distractors; some targets are equal."""
    torch.manual_seed(0)
    words = torch.randn(3, D)
    codes = torch.randint(3, (M, 1))
    mask = np.zeros((2, 12), bool)
    mask[0, 2:7] = mask[1, 5:9] = True
    distractors = contrastive.draw_distractors(mask, K, np.random.default_rng(0))
    return torch.randn(M, D), words[codes[:, 0]], codes, distractors


def test_contrastive_loss_is_equation_3_by_plain_loops() -> None:
    context, targets, codes, distractors = drawn_case()
    found = contrastive.contrast(context, targets, codes, torch.from_numpy(distractors), 0.1)
    c, q = context.double().numpy(), targets.double().numpy()
    total, rivals = 0.0, 0

    def similar(i: int, j: int) -> float:
        return float(c[i] @ q[j] / np.linalg.norm(c[i]) / np.linalg.norm(q[j]))

    for i in range(M):
        others = [j for j in distractors[i] if int(codes[j]) != int(codes[i])]
        rivals += len(others)
        exponents = [math.exp(similar(i, j) / 0.1) for j in [i, *others]]
        total -= math.log(exponents[0] / sum(exponents))
        equal = K - len(others)
        best = all(similar(i, i) > similar(i, j) for j in others)
        assert float(found.hits[i]) == pytest.approx(best / (1 + equal))
    assert 0 < rivals < M * K  # both kinds of distractors occur
    assert found.loss.item() == pytest.approx(total / M, abs=1e-5)  # float32
    assert found.rivals == pytest.approx(rivals / M)


def test_losses_are_those_of_transformers() -> None:
    kinds = {"num_codevector_groups": 2, "num_codevectors_per_group": 40, "codevector_dim": 6}
    size = Architecture(16, 1, 2, 16, (4,) * 6 + (8,), 4, 2)
    model = size.build(0, "wav2vec2", {**kinds, "proj_codevector_dim": 5, "num_negatives": K})
    rng = np.random.default_rng(1)
    # Theirs finds equal targets by comparing floats, which rounding may tell apart; here hardly
    # two frames have the same codes: a tone of its own for each, and scores around their mean.
    time, pitch = np.arange(400 + 320 * 29), rng.uniform(0.05, 3, (2, 31))
    tones = np.sin(np.cumsum(np.repeat(pitch, 320, axis=1), axis=1))[:, : len(time)]
    waves = torch.from_numpy(tones.astype(np.float32))
    with torch.no_grad():
        features = model.wav2vec2(waves).extract_features.flatten(0, 1)
        scores = model.quantizer.weight_proj
        scores.weight *= 30
        scores.bias.copy_(-scores.weight @ features.mean(0))
    mask = np.stack([span_mask(30, rng) for _ in range(2)])
    distractors = contrastive.draw_distractors(mask, K, rng)
    with torch.no_grad():
        masked = model.wav2vec2(waves).extract_features[mask]
        codes = contrastive.quantize(model.quantizer, masked, None).codes
    for i, row in enumerate(distractors):  # the few that are equal give way to a frame that is not
        free = np.flatnonzero((codes != codes[i]).any(dim=-1).numpy())
        distractors[i] = [j if j in free else free[0] for j in row]
    # Theirs are places in the flattened (B, T); ours in the list of masked frames
    flat = np.flatnonzero(mask.ravel())
    theirs = np.zeros((60, K), np.int64)
    theirs[flat] = flat[distractors]
    with torch.no_grad():
        out = model(
            waves,
            mask_time_indices=torch.from_numpy(mask),
            sampled_negative_indices=torch.from_numpy(theirs.reshape(2, 30, K)),
        )
        hidden = model.wav2vec2(waves, mask_time_indices=torch.from_numpy(mask))
        made = contrastive.quantize(model.quantizer, hidden.extract_features[mask], None)
        ours = contrastive.contrast(
            model.project_hid(hidden.last_hidden_state)[mask],
            model.project_q(made.vectors),
            made.codes,
            torch.from_numpy(distractors),
        )
        assert ours.rivals == K
        hard = torch.nn.functional.one_hot(made.codes, 40).float()  # theirs, in eval mode
        diversity = diversity_loss(hard)
    count = int(mask.sum())
    assert ours.loss.item() == pytest.approx(out.contrastive_loss.item() / count, rel=1e-5)
    assert diversity.item() == pytest.approx(out.diversity_loss.item() / count, rel=1e-5)
    assert float(perplexity(hard.mean(0)).sum()) == pytest.approx(
        out.codevector_perplexity.item(), rel=1e-5
    )
    np.testing.assert_allclose(
        model.project_q(made.vectors).detach(), out.projected_quantized_states[mask], atol=1e-5
    )


def test_diversity_is_equation_4_by_plain_loops() -> None:
    torch.manual_seed(1)
    soft = torch.randn(7, 2, 5).softmax(-1)
    p = soft.double().numpy()
    total = 0.0
    for g in range(2):
        mean = [sum(p[m, g, v] for m in range(7)) / 7 for v in range(5)]
        total += math.exp(-sum(x * math.log(x) for x in mean))
    assert diversity_loss(soft).item() == pytest.approx((10 - total) / 10, abs=1e-6)
    even, single = torch.full((3, 2, 5), 0.2), torch.zeros(3, 2, 5)
    single[:, :, 1] = 1.0
    assert diversity_loss(even).item() == pytest.approx(0.0, abs=1e-6)
    assert diversity_loss(single).item() == pytest.approx(0.8, abs=1e-6)


def test_distractors_are_other_masked_frames_of_the_same_clip_and_even() -> None:
    rng = np.random.default_rng(2)
    mask = np.zeros((2, 20), bool)
    mask[0, [1, 4, 5, 9]] = mask[1, [0, 3, 7]] = True
    rows = np.repeat([0, 1], [4, 3])
    counts: Counter[tuple[int, int]] = Counter()
    for _ in range(300):
        drawn = contrastive.draw_distractors(mask, 8, rng)
        assert drawn.shape == (7, 8)
        for i, others in enumerate(drawn):
            assert (rows[others] == rows[i]).all() and (others != i).all()
            counts.update((i, int(j)) for j in others)
    assert len(counts) == 4 * 3 + 3 * 2
    for (i, _), count in counts.items():
        share = 1 / (3 if rows[i] == 0 else 2)
        assert abs(count / 2400 - share) < 4.5 * math.sqrt(share * (1 - share) / 2400)
    alone = np.array([[False, True, False], [False, False, False], [True, True, False]])
    drawn = contrastive.draw_distractors(alone, 2, rng)
    assert drawn.tolist() == [[0, 0], [2, 2], [1, 1]]
    one = torch.randn(3, D)
    found = contrastive.contrast(one, one, torch.arange(3)[:, None], torch.from_numpy(drawn))
    assert float(found.hits[0]) == pytest.approx(1 / 3)  # nothing to tell it from: a blind choice


def test_a_collapsed_codebook_scores_chance_though_its_loss_is_zero() -> None:
    _, _, _, distractors = drawn_case()
    targets, codes = torch.ones(M, D), torch.zeros(M, 2, dtype=torch.long)
    found = contrastive.contrast(torch.randn(M, D), targets, codes, torch.from_numpy(distractors))
    assert found.loss.item() == 0.0
    assert found.rivals == 0.0
    np.testing.assert_allclose(found.hits, 1 / (K + 1))


def test_distinct_distractors_are_others_and_never_twice() -> None:
    rng = np.random.default_rng(5)
    counts = np.zeros((6, 6))
    for _ in range(400):
        drawn = contrastive.draw_distinct(6, 3, rng)
        assert drawn.shape == (6, 3)
        for i, row in enumerate(drawn):
            assert i not in row and len(set(row.tolist())) == 3
            counts[i, row] += 1
    share = counts[~np.eye(6, dtype=bool)] / 400
    assert np.abs(share - 3 / 5).max() < 4.5 * math.sqrt(0.24 / 400)
    assert sorted(contrastive.draw_distinct(4, 100, rng)[1].tolist()) == [0, 2, 3]
    assert contrastive.draw_distinct(1, 5, rng).shape == (1, 0)


@pytest.mark.parametrize("words", [2, 5, 400])
@pytest.mark.parametrize("frames", [40, 150])
def test_a_blind_model_scores_chance_with_any_codebook(words: int, frames: int) -> None:
    """Also where clips have fewer frames than candidates, and where its answer is a fixed one."""
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(0)
    hits, wanted = [], min(100, frames - 1)
    for clip in range(80):
        codes = torch.randint(words, (frames, 1), generator=generator)
        table = torch.randn(words, 8, generator=generator)
        context = torch.randn(frames if clip % 2 else 1, 8, generator=generator)
        drawn = torch.from_numpy(contrastive.draw_distinct(frames, 100, rng))
        found = contrastive.contrast(
            context.expand(frames, 8), table[codes[:, 0]], codes, drawn
        ).hits
        hits.append(float(found.mean()))
    error = np.std(hits) / math.sqrt(len(hits))
    assert abs(np.mean(hits) - 1 / (wanted + 1)) < 4 * error + 1e-6


def test_gumbel_choice_is_hard_follows_the_softmax_and_passes_a_gradient() -> None:
    quantizer = import_transformers().models.wav2vec2.modeling_wav2vec2
    config = import_transformers().Wav2Vec2Config(
        conv_dim=(8,) * 7, num_codevector_groups=2, num_codevectors_per_group=3, codevector_dim=4
    )
    made = quantizer.Wav2Vec2GumbelVectorQuantizer(config)
    torch.nn.init.uniform_(made.codevectors)
    features = torch.randn(1, 8, requires_grad=True).expand(6000, 8)
    torch.manual_seed(4)
    found = contrastive.quantize(made, features, 0.5)
    share = torch.stack([(found.codes == v).float().mean(0) for v in range(3)], dim=-1)  # (G, V)
    np.testing.assert_allclose(share, found.soft[0].detach(), atol=0.03)  # 4.6 standard errors
    words = made.codevectors.view(2, 3, 2)
    for row in (0, 77):
        chosen = torch.cat([words[g, found.codes[row, g]] for g in range(2)])
        torch.testing.assert_close(found.vectors[row], chosen)
    found.vectors.square().sum().backward()
    slope = made.get_parameter("weight_proj.weight").grad
    assert float(slope.abs().sum()) > 0  # straight through: the choice has a gradient


def test_temperature_falls_by_a_constant_factor_and_stays() -> None:
    values = [contrastive.temperature_at(s, 2.0, 0.5, 10) for s in range(14)]
    assert values[0] == 2.0
    np.testing.assert_allclose(np.divide(values[1:11], values[:10]), 0.25 ** (1 / 10))
    assert values[10:] == pytest.approx([0.5] * 4)
    # The published factor takes the published number of steps
    steps = round(math.log(0.25) / math.log(0.999995))
    assert contrastive.temperature_at(1000, 2.0, 0.5, steps) == pytest.approx(
        2 * 0.999995**1000, rel=1e-6
    )


def test_code_usage_is_entropy() -> None:
    assert code_usage([5, 5, 5, 5]) == {"size": 4, "used": 4, "perplexity": 4.0}
    assert code_usage([0, 9, 0]) == {"size": 3, "used": 1, "perplexity": 1.0}
    expected = 2 ** (0.75 * math.log2(4 / 3) + 0.25 * 2)  # bits
    assert code_usage([3, 1, 0])["perplexity"] == pytest.approx(expected, abs=1e-3)


def test_the_interval_goes_by_file_not_by_crop() -> None:
    tally = Tally(0.5, ("guess",))
    for file in range(40):
        for _ in range(5):  # five crops of one file are all right or all wrong
            tally.add(file, 20, 20 * (file % 2), 10)
    found = tally.full()
    assert found["files"] == 40 and found["frames"] == 4000 and found["chance"] == 0.5
    assert found["guess"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    half = (found["accuracy"]["high"] - found["accuracy"]["low"]) / 2
    assert half == pytest.approx(1.96 * math.sqrt(0.25 / 40), rel=0.1)
    with pytest.raises(ValueError, match="1 kinds of hits, need 2"):
        tally.add(0, 1, 1)


def test_codes_that_are_never_taken_leave_the_gradient_finite() -> None:
    soft = torch.tensor([[[0.25, 0.75, 0.0]]], requires_grad=True)
    found = perplexity(soft.mean(0))
    found.sum().backward()
    assert found.item() == pytest.approx(np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))))
    assert soft.grad is not None and soft.grad.isfinite().all()
    # d exp(H) / dp = -exp(H) (log p + 1)
    assert soft.grad[0, 0, 0].item() == pytest.approx(-found.item() * (np.log(0.25) + 1))
