"""vq-wav2vec: the published forward pass, codes, folders, a training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fairseq_layout import aggregate, arguments, checkpoint, encode, quantize, weights
from torch import Tensor

from distill.backbones.find import load
from distill.backbones.published.wav2vec import load_published
from distill.backbones.wav2vec.model import VqWav2Vec, VqWav2VecConfig
from distill.backbones.wav2vec.quantizer import GumbelQuantizer, KmeansQuantizer
from distill.backbones.wav2vec.teacher import Wav2VecTeacher, read_model, save
from distill.ssl.losses.future import FuturePrediction
from enhance.errors import EnhanceError

GUMBEL = {"vq_type": "gumbel", "vq_depth": 2, "combine_groups": True, "vq_vars": 7, "vq_groups": 2,
          "vq_dim": 0, "vq_temp": "(2,0.5,0.999995)", "vq_gamma": 0.25,
          "activation": "gelu", "log_compression": False}  # fmt: skip
"""What the published recipe adds to and changes of wav2vec's, with fewer codewords."""

KINDS = [
    GUMBEL,
    {**GUMBEL, "vq_depth": 1, "combine_groups": False},
    {**GUMBEL, "vq_depth": 3, "vq_temp": (2.0, 0.5, 0.999995)},
    {**GUMBEL, "vq_type": "kmeans"},
    {**GUMBEL, "vq_type": "kmeans", "combine_groups": False, "vq_groups": 3},
]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(**changes: object) -> VqWav2VecConfig:
    rows = {
        "encoder": ((6, 10, 5), (8, 8, 4), (12, 4, 2), (12, 4, 2), (12, 4, 2)),
        "aggregator": ((12, 2, 1), (14, 3, 1)),
    }
    return VqWav2VecConfig.small(**{**rows, **changes})


@pytest.mark.parametrize("changes", KINDS)
def test_states_and_codes_of_a_published_file(tmp_path: Path, changes: dict) -> None:
    args = arguments(**changes)
    model = weights(args)
    torch.save(checkpoint(args, model), tmp_path / "vq-wav2vec.pt")
    teacher = load(tmp_path / "vq-wav2vec.pt", left_pad=0)
    assert teacher.family == "vq-wav2vec"
    assert (teacher.num_layers, teacher.widths) == (4, (12, 12, 12, 14, 14))
    wave = noise(4000)
    length = torch.tensor([4000])
    hidden = teacher(wave[None], length)[0][:, 0]
    z = encode(args, model, wave)
    values, codes = quantize(args, model, z)
    assert len(codes.unique()) > 2
    network = teacher.model
    assert torch.equal(network.quantizer(network.features(wave[None])).codes[0], codes)
    for state, right in zip(hidden, [z, values, *aggregate(args, model, values)], strict=True):
        right = right[0].T
        torch.testing.assert_close(state[:, : right.shape[1]], right, atol=3e-5, rtol=1e-5)


def test_published_size() -> None:
    """Weights by hand: 8 + 12 convolutions of 512, norms, scores of two layers, one codebook."""
    encoder = 512 * 10 + 512 * 512 * (8 + 3 * 4 + 3) + 8 * 2 * 512
    aggregator = sum(512 * 512 * k + 512 + 2 * 512 for k in range(2, 14))
    quantizer = 512 * 1024 + 1024 + 1024 * 640 + 640 + 320 * 256
    with torch.device("meta"):
        model = VqWav2Vec(VqWav2VecConfig())
    assert sum(p.numel() for p in model.parameters()) == encoder + aggregator + quantizer


def test_published_refusals() -> None:
    for changes, match in (
        ({"vq_dim": 6}, "6 features"),
        ({"conv_feature_layers": "[]"}, "encoder: expected 1 values or more"),
        ({"vq_type": "none"}, "vq_type"),
        ({"vq_temp": "(2, 1)"}, "vq_temperature"),
        ({"vq_vars": 8}, "do not fit"),
    ):
        args = arguments(**GUMBEL)
        model = weights(args)
        with pytest.raises(EnhanceError, match=match):
            load_published("vq-wav2vec", {**vars(args), **changes}, dict(model), "x.pt")


@pytest.mark.parametrize("kind", ["gumbel", "kmeans"])
def test_folder(tmp_path: Path, kind: str) -> None:
    model = VqWav2Vec.build(small(vq_type=kind, vq_shared=False), 0)
    save(model, tmp_path)
    teacher = load(tmp_path)
    assert teacher.family == "vq-wav2vec"
    assert teacher.model.config == model.config
    wave, length = noise(1, 4000), torch.tensor([4000])
    assert torch.equal(teacher(wave, length)[0], Wav2VecTeacher(model, "x")(wave, length)[0])
    assert isinstance(
        read_model(tmp_path).quantizer,
        GumbelQuantizer if kind == "gumbel" else KmeansQuantizer,
    )


@pytest.mark.parametrize("kind", ["gumbel", "kmeans"])
def test_training_reaches_every_weight(kind: str) -> None:
    config = small(vq_type=kind)
    model = VqWav2Vec.build(config, 0).train()
    head = FuturePrediction(config.context_width, config.width, config.prediction_offset)
    model.quantizer.set_step(100)
    generator = torch.Generator().manual_seed(0)
    taken = model.quantizer(model.features(noise(2, 8000)))
    found = head(taken.values, model.aggregate(taken.values), generator)
    extra = taken.codebook_loss if kind == "kmeans" else taken.diversity
    (found.loss + extra).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
