"""wav2vec: the published forward pass, the teacher contract, folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fairseq_layout import aggregate, arguments, checkpoint, encode, weights
from torch import Tensor, nn

from distill.backbones.find import load
from distill.backbones.published import fairseq_files
from distill.backbones.published.wav2vec import load_published
from distill.backbones.wav2vec.model import Wav2Vec, Wav2VecConfig
from distill.backbones.wav2vec.teacher import Wav2VecTeacher, read_model, save
from distill.ssl.losses.future import FuturePrediction
from enhance.errors import EnhanceError

TINY = Wav2VecConfig(
    encoder=((6, 10, 5), (8, 8, 4), (10, 4, 2), (10, 4, 2), (10, 4, 2)),
    aggregator=((10, 2, 1), (12, 3, 1)),
)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(**changes: object) -> Wav2VecTeacher:
    model = Wav2Vec.build(dataclasses.replace(TINY, **changes), 0)
    with torch.no_grad():  # fresh norms are 1 and 0: make them count
        for i, parameter in enumerate(p for p in model.parameters() if p.ndim == 1):
            parameter += 0.1 * noise(len(parameter), seed=i)
    return Wav2VecTeacher(model, "tiny")


def whole(teacher: Wav2VecTeacher, wave: Tensor) -> Tensor:
    """Hidden states of one clip, (L + 1, T', D)."""
    return teacher(wave[None], torch.tensor([len(wave)]))[0][:, 0]


def test_published_size() -> None:
    """The public model card gives 32.5 M weights for wav2vec_large."""
    config = Wav2VecConfig()
    with torch.device("meta"):
        model = Wav2Vec(config)
        head = FuturePrediction(config.context_width, config.width, config.prediction_offset)
    count = sum(p.numel() for part in (model, head) for p in part.parameters())
    assert round(count / 1e6, 1) == 32.5


def test_geometry() -> None:
    config = Wav2VecConfig()
    assert config.geometry == Wav2VecConfig.small().geometry == (465, 160)
    assert config.prediction_offset == 3  # ceil(465 / 160)
    assert config.context_frames == 1 + sum(range(1, 13))
    for n in (465, 466, 624, 625, 10000):
        frames = Wav2Vec.build(TINY, 0).features(torch.zeros(1, n)).shape[1]
        assert frames == (n - 465) // 160 + 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"agg_zero_pad": True, "no_conv_bias": True},
        {"skip_connections_feat": True, "residual_scale": 0.3},
        {"skip_connections_agg": False, "log_compression": False},
        {"non_affine_group_norm": True, "activation": "gelu"},
    ],
)
def test_states_of_a_published_file(tmp_path: Path, changes: dict[str, object]) -> None:
    args = arguments(**changes)
    model = weights(args)
    torch.save(checkpoint(args, model), tmp_path / "wav2vec_large.pt")
    found = fairseq_files.read(tmp_path / "wav2vec_large.pt")
    teacher = load_published(*found, "large", left_pad=0)
    assert (teacher.num_layers, teacher.widths) == (3, (12, 12, 14, 14))
    wave = noise(4000)
    hidden = whole(teacher, wave)
    z = encode(args, model, wave)
    expected = [z, *aggregate(args, model, z)]
    assert len(hidden) == len(expected)
    for state, width, right in zip(hidden, teacher.widths, expected, strict=True):
        assert right.abs().max() > 0.5
        torch.testing.assert_close(state[:, :width], right[0].T, atol=3e-5, rtol=1e-5)
        assert state[:, width:].abs().sum() == 0


def test_a_published_file_by_name(tmp_path: Path) -> None:
    args = arguments()
    torch.save(checkpoint(args, weights(args)), tmp_path / "w.pt")
    teacher = load(tmp_path / "w.pt")
    assert isinstance(teacher, Wav2VecTeacher)
    assert (teacher.offset_samples, teacher.name) == (-305, str(tmp_path / "w.pt"))


def test_settings_that_a_file_lacks_have_the_defaults_of_its_time() -> None:
    args = arguments(skip_connections_agg=False)
    model = weights(args)
    settings = vars(args) | {"activation": None}
    for name in ("skip_connections_agg", "log_compression", "non_affine_group_norm", "dropout"):
        del settings[name]
    config = load_published("wav2vec", settings, model, "old").model.config
    assert not config.skip_aggregator
    assert not config.log_compression
    assert (config.affine, config.dropout, config.activation) == (True, 0.0, "relu")


@pytest.mark.parametrize(
    ("changes", "tensor", "match"),
    [
        ({"aggregator": "gru"}, {}, "gru aggregator"),
        ({"conv_feature_layers": "open('x')"}, {}, "conv_feature_layers"),
        ({"conv_feature_layers": "[1, 2]"}, {}, "encoder"),
        ({"conv_aggregator_layers": "[(12, 2, 2)]"}, {}, "stride must be 1"),
        ({"conv_aggregator_layers": "[(12, 2, 1)] * 3"}, {}, "do not fit"),
        ({"activation": "tanh"}, {}, "activation"),
        ({"residual_scale": "half"}, {}, "residual_scale: expected a number"),
        ({}, {"feature_extractor.other": torch.ones(1)}, r"feature_extractor\.other"),
        ({}, {"feature_extractor.conv_layers.0.0.weight": torch.ones(1)}, "need .6, 1, 10."),
    ],
)
def test_published_refusals(changes, tensor, match) -> None:
    args = arguments()
    settings, model = {**vars(args), **changes}, {**weights(args), **tensor}
    with pytest.raises(EnhanceError, match=match) as caught:
        load_published("wav2vec", settings, model, "x.pt")
    assert "\n" not in str(caught.value)


def test_contract() -> None:
    teacher = tiny(dropout=0.5, dropout_features=0.5, dropout_context=0.5)
    assert (teacher.field_samples, teacher.stride_samples) == (465, 160)
    assert (teacher.offset_samples, teacher.causal, teacher.sample_rate) == (-305, False, 16000)
    assert (teacher.num_layers, teacher.widths) == (2, (10, 10, 12))
    assert not any(p.requires_grad for p in teacher.parameters())
    waves = noise(2, 4000).requires_grad_()
    hidden, counts = teacher.train()(waves, torch.tensor([4000, 4000]))
    assert not teacher.training
    assert not hidden.requires_grad
    assert hidden.shape == (3, 2, 25, 12)
    assert counts.tolist() == [25, 25]
    assert torch.equal(hidden, teacher(waves, torch.tensor([4000, 4000]))[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hidden, teacher(waves, torch.tensor([4000, 4000]))[0])


@pytest.mark.parametrize("left_pad", [0, 305, 464])
def test_frame_counts_are_the_models_own(left_pad: int) -> None:
    teacher = Wav2VecTeacher(tiny().model, "x", left_pad=left_pad)
    for n in (465, 466, 624, 625, 640, 800, 801, 5000):
        own = teacher.model.features(torch.zeros(1, n + left_pad)).shape[1]
        assert own == teacher.frames(n) == int(teacher(torch.zeros(1, n), torch.tensor([n]))[1])
    if left_pad == 305:
        assert [teacher.frames(n) for n in (0, 159, 160, 319, 320)] == [0, 0, 1, 1, 2]


def test_batching_never_changes_a_frame() -> None:
    teacher = tiny()
    waves, sizes = noise(5, 8000), [8000, 5000, 5000, 100, 1600]
    hidden, counts = teacher(waves, torch.tensor(sizes))
    for row, size in enumerate(sizes):
        assert int(counts[row]) == size // 160
        assert hidden[:, row, size // 160 :].abs().sum() == 0
        if size >= 160:
            alone = whole(teacher, waves[row, :size])
            torch.testing.assert_close(hidden[:, row, : size // 160], alone, atol=3e-5, rtol=0)
    # The hazard is real: with zeros behind it the clip would have other frames.
    padded = torch.cat([waves[1, :5000], torch.zeros(3000)])
    assert (whole(teacher, padded)[:, :31] - hidden[:, 1, :31]).abs().max() > 0.05


def test_the_norms_make_it_see_the_whole_clip() -> None:
    teacher, wave = tiny(), noise(4000)
    moved = wave.clone()
    moved[-1] += 5
    for state, other in zip(whole(teacher, wave), whole(teacher, moved), strict=True):
        assert (state[0] - other[0]).abs().max() > 0


def test_convolutions_look_where_they_should() -> None:
    """Without the norms z is local in time, and the aggregator looks back only, 3 frames here."""
    teacher = tiny()
    for layer in [*teacher.model.encoder, *teacher.model.aggregator]:
        layer.norm, layer.act = nn.Identity(), nn.Identity()
    assert teacher.model.config.context_frames == 4
    wave = noise(4000)
    base = whole(teacher, wave)
    start = teacher.offset_samples + 160 * torch.arange(base.shape[1])
    for n in (0, 159, 160, 700, 2000, 3999):
        moved = wave.clone()
        moved[n] += 3
        change = (whole(teacher, moved) - base).abs().amax(-1) > 1e-5
        expected = (start <= n) & (n < start + 465)
        assert torch.equal(change[0], expected), n
        first = int(expected.nonzero()[0])
        last = min(int(expected.nonzero()[-1]) + 3, base.shape[1] - 1)
        assert change[2].nonzero().flatten().tolist() == list(range(first, last + 1)), n


def test_folder(tmp_path: Path) -> None:
    teacher = tiny()
    save(teacher.model, tmp_path / "m")
    again = load(tmp_path / "m")
    assert isinstance(again, Wav2VecTeacher)
    assert again.model.config == teacher.model.config
    assert again.fingerprint == teacher.fingerprint != load(tmp_path / "m", left_pad=0).fingerprint
    assert torch.equal(whole(again, noise(4000)), whole(teacher, noise(4000)))
    assert not again.do_normalize
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "wav2vec"
    assert Wav2VecTeacher(Wav2Vec.build(TINY, 1), "x").fingerprint != teacher.fingerprint
    assert not read_model(tmp_path / "m").training


def test_do_normalize_is_honoured(tmp_path: Path) -> None:
    save(tiny().model, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    teacher, wave = load(tmp_path), noise(4000)
    assert isinstance(teacher, Wav2VecTeacher)
    normal = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
    torch.testing.assert_close(
        whole(teacher, wave * 3 + 1), whole(tiny(), normal), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("preprocessor_config.json", "{}", "do_normalize"),
        ("config.json", '{"model_type": "wav2vec", "size": 3}', "unknown key .size."),
        (
            "config.json",
            '{"model_type": "wav2vec", "encoder": [[4, 0, 1]]}',
            "more than 0",
        ),
        ("config.json", '{"model_type": "wav2vec", "residual_scale": 0}', "residual_scale"),
        ("config.json", '{"model_type": "wav2vec"}', "do not fit"),
        ("model.safetensors", "nothing", "cannot be read as weights"),
    ],
)
def test_folder_refusals(tmp_path: Path, name: str, content: str, match: str) -> None:
    save(tiny().model, tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(EnhanceError, match=match) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model = Wav2Vec.build(TINY, 0)
    model.encoder[0].conv.weight.data[0, 0, 0] = float("nan")
    with pytest.raises(EnhanceError, match="not finite"):
        save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_input() -> None:
    teacher = tiny()
    with pytest.raises(EnhanceError, match="lengths"):
        teacher(torch.zeros(1, 500), torch.tensor([501]))
    with pytest.raises(EnhanceError, match="shapes"):
        teacher(torch.zeros(500), torch.tensor([500]))
    with pytest.raises(EnhanceError, match="left_pad"):
        Wav2VecTeacher(teacher.model, "x", left_pad=465)


def test_seed_and_size_for_a_cpu() -> None:
    state = torch.random.get_rng_state()
    one, two = (Wav2Vec.build(Wav2VecConfig.small(), seed) for seed in (3, 3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert sum(p.numel() for p in one.parameters()) < 0.6e6
    assert Wav2VecConfig.small(dropout=0.1).dropout == 0.1
