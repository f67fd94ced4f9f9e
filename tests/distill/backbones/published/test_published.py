"""Checkpoint files in the layout of their authors, built from torchaudio's networks.

The renaming here goes from torchaudio's names to the published ones; the code under test goes from
transformers' names. What both must give is torchaudio's own states.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import fairseq_layout as layout
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.find import load, resolve
from distill.backbones.hf import HfTeacher
from distill.backbones.published.fairseq_files import read
from distill.backbones.published.load import settings
from enhance.errors import EnhanceError

KINDS = ["wav2vec2", "hubert", "wavlm"]
CONVOLUTIONS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"


def network(models: ModuleType, kind: str, large: bool, seed: int = 0) -> nn.Module:
    """A tiny model of torchaudio, Base-like or Large-like."""
    settings = {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
        "extractor_conv_bias": large,
        "encoder_embed_dim": 24,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 3,
        "encoder_num_heads": 4,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 32,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.5,
        "aux_num_out": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "wavlm":
            model = models.wavlm_model(
                **settings, encoder_num_buckets=320, encoder_max_distance=800
            )
        else:
            model = models.wav2vec2_model(**settings)
        for parameter in model.parameters():  # fresh norms, biases and gates are 0 and 1
            scale = 0.3 if parameter.ndim in (1, 4) else 0.05
            parameter.data += scale * torch.randn_like(parameter)
    return model.eval()


def published_weights(model: nn.Module, kind: str, large: bool) -> dict[str, Tensor]:
    """Weights under their published names, with the pre-training heads of that kind."""
    words = [
        ("encoder.feature_projection.layer_norm.", "layer_norm."),
        ("encoder.feature_projection.projection.", "post_extract_proj."),
        ("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original0",
         "encoder.pos_conv.0.weight_g"),
        ("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1",
         "encoder.pos_conv.0.weight_v"),
        ("encoder.transformer.pos_conv_embed.conv.", "encoder.pos_conv.0."),
        ("encoder.transformer.", "encoder."),
        (".conv.", ".0."),
        (".attention.attention.", ".self_attn."),
        (".attention.", ".self_attn."),
        ("gru_rel_pos_linear", "grep_linear"),
        ("gru_rel_pos_const", "grep_a"),
        ("rel_attn_embed", "relative_attention_bias"),
        (".feed_forward.intermediate_dense.", ".fc1."),
        (".feed_forward.output_dense.", ".fc2."),
    ]  # fmt: skip
    result: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("feature_extractor."):
            name = name.replace(".layer_norm.", ".2.1." if large else ".2.")
        elif ".layers." in name:
            name = name.replace("s.0.layer_norm", "s.0.self_attn_layer_norm")
            name = name.replace("s.1.layer_norm", "s.1.self_attn_layer_norm")
            name = name.replace("s.2.layer_norm", "s.2.self_attn_layer_norm")
        for theirs, published in words:
            name = name.replace(theirs, published)
        if ".in_proj_" in name:  # one matrix there, three in the published file
            stem, _, what = name.partition("in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{stem}{letter}_proj.{what}"] = part.clone()
        else:
            result[name] = tensor.clone()
    result["mask_emb"] = torch.rand(24)
    if kind == "wav2vec2":
        result |= {
            "quantizer.vars": torch.rand(1, 8, 4),
            "quantizer.weight_proj.weight": torch.rand(8, 16),
            "quantizer.weight_proj.bias": torch.rand(8),
            "project_q.weight": torch.rand(8, 8),
            "project_q.bias": torch.rand(8),
        }
    if kind == "hubert":
        result["label_embs_concat"] = torch.rand(9, 8)
    if kind != "wavlm":
        result |= {"final_proj.weight": torch.rand(8, 24), "final_proj.bias": torch.rand(8)}
    return result


def published_settings(kind: str, large: bool) -> dict[str, Any]:
    values = {
        "extractor_mode": "layer_norm" if large else "default",
        "encoder_layers": 3,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 32,
        "encoder_attention_heads": 4,
        "activation_fn": "gelu",
        "layer_norm_first": large,
        "conv_feature_layers": CONVOLUTIONS,
        "conv_bias": large,
        "conv_pos": 16,
        "conv_pos_groups": 2,
        "dropout": 0.1,
        "encoder_layerdrop": 0.05,
        "mask_prob": 0.65,
        "feature_grad_mult": 0.1,
    }
    if kind == "wavlm":
        values |= {"relative_position_embedding": True, "num_buckets": 320, "max_distance": 800}
        values |= {"gru_rel_pos": True, "normalize": large}
    return values


def write(path: Path, kind: str, large: bool, weights: dict[str, Tensor], **change: Any) -> Path:
    """A file as wav2vec_small.pt (argparse), hubert_base_ls960.pt (hydra) or WavLM-Base.pt."""
    values = {**published_settings(kind, large), **change}
    values = {key: value for key, value in values.items() if value is not ...}
    if kind == "wav2vec2":
        values = {"arch": "wav2vec2", "task": "audio_pretraining", "normalize": large} | values
        namespace = Namespace(**{k: v for k, v in values.items() if v is not ...})
        state = {"args": namespace, "model": weights, "extra_state": {"epoch": 1}}
        state |= {"optimizer_history": [{"num_updates": 400000}], "last_optimizer_state": None}
    elif kind == "hubert":
        task = {"_name": "hubert_pretraining", "sample_rate": 16000, "normalize": large}
        cfg = {"common": {"fp16": True}, "task": task, "model": {"_name": "hubert", **values}}
        state = {"args": None, "cfg": cfg, "model": weights, "task_state": {}}
    else:
        state = {"cfg": values, "model": weights}
    torch.save(state, path)
    return path


@torch.no_grad()
def theirs(model: nn.Module, wave: Tensor, normalize: bool, left_pad: int) -> Tensor:
    """torchaudio's states, (L + 1, T', D); see test_torchaudio_agrees for the order."""
    if normalize:  # as fairseq, unilm and torchaudio's bundles do
        wave = F.layer_norm(wave, wave.shape)
    wave = F.pad(wave, (left_pad, 0))[None]
    features, _ = model.feature_extractor(wave, None)
    projected, _ = model.encoder._preprocess(features, None)
    first = model.encoder.transformer._preprocess(projected)
    return torch.cat([first, *model.extract_features(wave)[0][:-1], model(wave)[0]])


MakeFile = Callable[..., tuple[Path, nn.Module]]


@pytest.fixture
def make_file(torchaudio_models: ModuleType, tmp_path: Path) -> MakeFile:
    def make(kind: str, large: bool = False, **change: Any) -> tuple[Path, nn.Module]:
        model = network(torchaudio_models, kind, large)
        weights = published_weights(model, kind, large)
        return write(tmp_path / "model.pt", kind, large, weights, **change), model

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_states_are_those_of_the_network_in_the_file(make_file, kind: str, large: bool) -> None:
    path, model = make_file(kind, large)
    for left_pad in (None, 0):
        teacher = load(path, left_pad=left_pad)
        assert isinstance(teacher, HfTeacher)
        assert (teacher.name, teacher.num_layers, teacher.widths) == (str(path), 3, (24,) * 4)
        assert (teacher.field_samples, teacher.stride_samples) == (400, 320)
        assert (teacher.do_normalize, teacher.equal_lengths_only) == (large, not large)
        assert teacher.model.config.model_type == kind
        pad = 80 if left_pad is None else 0
        for samples, gain in ((600, 1.0), (33000, 0.003)):  # the quiet one: the eps counts
            wave = gain * torch.randn(samples, generator=torch.Generator().manual_seed(samples))
            hidden, counts = teacher(wave[None], torch.tensor([samples]))
            expected = theirs(model, wave, large, pad)
            assert int(counts) == expected.shape[1]
            torch.testing.assert_close(hidden[:, 0], expected, atol=3e-5, rtol=1e-5)
    assert all(not p.requires_grad and p.device.type == "cpu" for p in teacher.parameters())


def test_fingerprint_follows_the_weights(make_file) -> None:
    path, _ = make_file("wavlm", True)
    first = load(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # no weight is random
        before = torch.get_rng_state()
        assert load(path).fingerprint == first.fingerprint
        assert torch.equal(torch.get_rng_state(), before)
    state = torch.load(path, weights_only=True)
    state["model"]["encoder.layers.2.fc1.weight"][0, 0] += 1e-3
    torch.save(state, path)
    assert load(path).fingerprint != first.fingerprint
    del state["model"]["mask_emb"]  # for pre-training only
    torch.save(state, path)
    assert load(path).fingerprint == load(path).fingerprint


def test_half_precision_and_settings_of_newer_recipes(make_file) -> None:
    path, model = make_file("hubert", layer_type="transformer", pos_conv_depth=1)
    state = torch.load(path, weights_only=True)
    state["model"] = {key: tensor.half() for key, tensor in state["model"].items()}
    torch.save(state, path)
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    hidden, _ = load(path)(wave[None], torch.tensor([4000]))
    assert hidden.dtype == torch.float32
    assert 0 < (hidden[:, 0] - theirs(model, wave, False, 80)).abs().max() < 0.05


@pytest.mark.parametrize("sections", [False, True], ids=["argparse", "hydra"])
def test_the_pre_trained_part_of_a_fine_tuned_file(make_file, sections: bool) -> None:
    path, model = make_file("wav2vec2", True)
    weights = read(path).tensors
    heads = ("quantizer.", "project_q.", "final_proj.")
    trunk = {f"w2v_encoder.w2v_model.{k}": t for k, t in weights.items() if not k.startswith(heads)}
    trunk |= {"w2v_encoder.proj.weight": torch.rand(9, 24), "w2v_encoder.proj.bias": torch.rand(9)}
    inner: Any = published_settings("wav2vec2", True) | {"normalize": True}
    if sections:
        inner = {"task": {"normalize": True}, "model": published_settings("wav2vec2", True)}
    else:
        inner = Namespace(**inner)
    outer = Namespace(arch="wav2vec_ctc", normalize=True, w2v_args=inner, w2v_path="/elsewhere")
    torch.save({"args": outer, "model": trunk}, path)
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    hidden, _ = load(path)(wave[None], torch.tensor([4000]))
    torch.testing.assert_close(hidden[:, 0], theirs(model, wave, True, 80), atol=3e-5, rtol=1e-5)

    torch.save({"args": Namespace(arch="wav2vec_ctc", normalize=True), "model": trunk}, path)
    with pytest.raises(EnhanceError, match="w2v_args"):
        load(path)


@pytest.mark.parametrize("kind", ["wav2vec", "vq-wav2vec"])
def test_the_models_of_2019_are_handed_on(tmp_path: Path, kind: str) -> None:
    quantiser = {"vq_type": "gumbel", "vq_groups": 2, "vq_vars": 5, "vq_depth": 1}
    args = layout.arguments(**(quantiser if kind == "vq-wav2vec" else {}), combine_groups=False)
    weights = layout.weights(args)
    torch.save(layout.checkpoint(args, weights), tmp_path / "model.pt")
    teacher = load(tmp_path / "model.pt", left_pad=0)
    assert teacher.name == str(tmp_path / "model.pt")
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    z = layout.encode(args, weights, wave)[0].T  # (T', C)
    hidden, _ = teacher(wave[None], torch.tensor([4000]))
    torch.testing.assert_close(hidden[0, 0, :, : z.shape[1]], z, atol=3e-5, rtol=1e-5)
    assert teacher.family == kind


# Refusing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("encoder.layers.2.fc2.bias", None, r"1 weights are missing \(first: encoder.layers.2.fc2"),
        ("encoder.layers.0.self_attn.grep_a", None, "missing .*self_attn.grep_a"),
        ("encoder.layers.3.fc1.bias", torch.ones(32), r"unknown \(first: encoder.layers.3.fc1"),
        ("spk_proj.weight", torch.ones(4, 4), "unknown .*spk_proj"),
        ("post_extract_proj.weight", torch.ones(24, 15), "another shape .*post_extract_proj"),
    ],
)
def test_weights_that_do_not_fit_are_named(make_file, key, value, match) -> None:
    path, _ = make_file("wavlm")
    state = torch.load(path, weights_only=True)
    if value is None:
        del state["model"][key]
    else:
        state["model"][key] = value
    torch.save(state, path)
    with pytest.raises(EnhanceError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        ("wavlm", {"max_distance": ...}, "lack 'max_distance'"),
        ("hubert", {"encoder_attention_heads": ...}, "lack 'encoder_attention_heads'"),
        ("hubert", {"extractor_mode": "batch"}, "extractor_mode 'batch'.*default, layer_norm"),
        ("hubert", {"activation_fn": "relu"}, "activation_fn is 'relu'"),
        ("wav2vec2", {"layer_type": "conformer"}, "layer_type is 'conformer'"),
        ("wav2vec2", {"quantize_input": True}, "quantize_input"),
        ("wav2vec2", {"conv_feature_layers": "[(16, 10)]"}, "conv_feature_layers"),
        ("wav2vec2", {"conv_feature_layers": "__import__('os')"}, "conv_feature_layers"),
        ("wav2vec2", {"encoder_layers": 4}, "missing .first: encoder.layers.3"),
        ("wav2vec2", {"encoder_attention_heads": 5}, "make no Wav2Vec2Model"),
        ("wav2vec2", {"conv_pos_groups": 5}, "make no Wav2Vec2Model"),
        ("wav2vec2", {"encoder_attention_heads": 0}, "make no Wav2Vec2Model"),
        ("hubert", {"encoder_layers": "three"}, "make no HubertModel"),
        ("hubert", {"extractor_mode": ["default"]}, "make no HubertModel"),
        ("hubert", {"sample_rate": "high"}, "make no HubertModel"),
    ],
)
def test_settings_that_do_not_fit_are_named(make_file, kind, change, match) -> None:
    path, _ = make_file(kind, **change)
    with pytest.raises(EnhanceError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_normalize_is_never_guessed_for_layer_norm_models(make_file) -> None:
    path, _ = make_file("wavlm", True, normalize=...)
    with pytest.raises(EnhanceError, match="normalize"):
        load(path)
    path, _ = make_file("wavlm", False, normalize=...)
    assert load(path).do_normalize is False


def test_buckets_are_the_files_own() -> None:
    values = published_settings("wavlm", False) | {"num_buckets": 64, "max_distance": 1280}
    made = settings("wavlm", values, "here")
    assert (made["num_buckets"], made["max_bucket_distance"]) == (64, 1280)
    assert "num_buckets" not in settings("hubert", values, "here")


def test_no_file_no_hub(tmp_path: Path) -> None:
    for name in ("models/WavLM-Base.pt", str(tmp_path / "WavLM-Base.pt"), "WavLM-Base.pt"):
        with pytest.raises(EnhanceError, match=r"no published checkpoint file .*hub id"):
            resolve(name)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(EnhanceError, match=r"notes\.txt") as caught:
        load(tmp_path / "notes.txt")
    assert "\n" not in str(caught.value)
