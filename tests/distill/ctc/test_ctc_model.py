"""The CTC model: its loss, its independence of batches, its folder as others read it."""

from __future__ import annotations

import dataclasses
import json
from itertools import groupby, product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from fairseq_layout import arguments, checkpoint, weights
from test_published import network as published_network
from test_published import published_weights
from test_published import write as write_published
from tiny_ctc import config
from torch.nn import functional as F

from distill.backbones import find as teacher
from distill.backbones import import_transformers
from distill.ctc import recognizer
from distill.ctc.folder import build, load, open_backbone, save
from distill.ctc.model import CtcModel, ctc_loss, least_frames
from distill.ctc.vocabulary import Vocabulary
from distill.ssl.losses.masked_units import span_mask
from enhance.errors import EnhanceError

KINDS = ["wavlm", "hubert", "wav2vec2"]
LETTERS = Vocabulary.of(["ABCD EF"], "char")
SIZES = [9000, 5200, 9000, 12345, 400]


def waves(sizes: list[int] = SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [(0.1 * rng.standard_normal(n) + 0.03).astype(np.float32) for n in sizes]


def make(folder: Path, vocabulary: Vocabulary = LETTERS, **changes: object) -> CtcModel:
    """A model on a backbone, in eval mode, with a head that says now this, now that."""
    model = build(open_backbone(str(folder)), vocabulary, config(folder, **changes)).eval()
    with torch.no_grad():
        model.network.lm_head.weight.normal_(generator=torch.Generator().manual_seed(1))
        model.network.lm_head.bias -= torch.cat(model(waves())).mean(dim=0)
    return model


def by_enumeration(logits: np.ndarray, target: list[int]) -> float:
    """Minus the log of the summed probability of every path that reads as the target."""
    probability = np.exp(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    total = 0.0
    for path in product(range(logits.shape[1]), repeat=len(logits)):
        if [i for i, _ in groupby(path) if i != 0] == target:
            total += float(np.prod([probability[t, i] for t, i in enumerate(path)]))
    return -np.log(total) if total else np.inf


def test_the_loss_counts_every_path() -> None:
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(5, 4)), rng.normal(size=(6, 4)), rng.normal(size=(4, 4))]
    targets = [[1, 1, 2], [3], [2, 3]]
    expected = np.mean(
        [by_enumeration(x, y) / len(y) for x, y in zip(logits, targets, strict=True)]
    )
    found = ctc_loss([torch.from_numpy(x) for x in logits], targets)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", [[1], [1, 2], [1, 1], [2, 1, 1, 1], [1, 2, 2]])
def test_frames_that_a_text_needs(target: list[int]) -> None:
    need = least_frames(target)
    assert np.isfinite(by_enumeration(np.zeros((need, 3)), target))
    assert np.isfinite(float(ctc_loss([torch.zeros(need, 3)], [target])))
    assert np.isinf(by_enumeration(np.zeros((need - 1, 3)), target))
    if need > 1:
        assert float(ctc_loss([torch.zeros(need - 1, 3)], [target])) == np.inf  # never 0


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_logits_are_those_of_transformers(make_teacher, kind: str) -> None:
    model = make(make_teacher(kind, normalize=True))
    clips, targets = waves([9000, 5200]), [[3, 2, 4], [5, 5]]
    logits = model(clips)
    extractor = import_transformers().Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=True
    )
    inputs = extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")
    labels = torch.tensor([[3, 2, 4], [5, 5, -100]])
    theirs = model.network(**inputs, labels=labels)
    for i, x in enumerate(logits):
        torch.testing.assert_close(x, theirs.logits[i, : len(x)], atol=1e-4, rtol=1e-4)
    assert float(ctc_loss(logits, targets).detach()) == pytest.approx(
        float(theirs.loss.detach()), rel=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "norm", "more"),
    [
        ("wavlm", "layer", {"do_stable_layer_norm": True}),
        ("hubert", "layer", {}),
        ("wav2vec2", "layer", {}),
        ("wav2vec2", "group", {}),
        ("wavlm", "group", {}),
        ("hubert", "layer", {"conv_pos_batch_norm": True}),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_company_never_changes_a_frame(make_teacher, kind, norm, more, masked) -> None:
    model = make(make_teacher(kind, norm, **more))
    clips = waves()
    rng = np.random.default_rng(0)
    masks = [span_mask(model.frames(len(clip)), rng, 0.05, 10) for clip in clips]
    together = model(clips, masks if masked else None)
    assert [len(x) for x in together] == [model.frames(n) for n in SIZES] == [27, 16, 27, 38, 1]
    for i, clip in enumerate(clips):
        alone = model([clip], [masks[i]] if masked else None)[0]
        torch.testing.assert_close(together[i], alone, atol=2e-5, rtol=1e-4)
    if masked:
        assert (together[0] - model(clips)[0]).abs().max() > 0.01
    # Were the shorter clip padded as in a naive batch, its logits would be others
    padded = model([np.concatenate([clips[1], np.zeros(3800, np.float32)])])[0][:16]
    assert (padded - together[1]).abs().max() > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_is_what_it_was(make_teacher, kind: str) -> None:
    # Another seed than that of the head, with which the same weights would be drawn again
    folder = make_teacher(kind, normalize=True, do_stable_layer_norm=kind == "wavlm", seed=4)
    before = teacher.load(folder, left_pad=0)
    clips = waves([9000, 5200])
    states, counts = before(
        torch.from_numpy(np.stack([clips[0], np.pad(clips[1], (0, 3800))])),
        torch.tensor([9000, 5200]),
    )
    model = make(folder)
    found = model._states(clips, None)
    for i, count in enumerate(counts.tolist()):
        torch.testing.assert_close(found[i, :count], states[-1, i, :count], atol=2e-5, rtol=1e-4)
    scratch = make(folder, from_scratch=True)._states(clips, None)
    assert (scratch - found).abs().max() > 0.1
    again = make(folder, from_scratch=True)._states(clips, None)
    assert torch.equal(again, scratch) and not model.network.training


def test_a_published_file_can_be_tuned(torchaudio_models: ModuleType, tmp_path: Path) -> None:
    tensors = published_weights(published_network(torchaudio_models, "wavlm", True), "wavlm", True)
    path = write_published(tmp_path / "WavLM-Large.pt", "wavlm", True, tensors)
    states, _ = teacher.load(path, left_pad=0)(
        torch.from_numpy(waves([9000])[0])[None], torch.tensor([9000])
    )
    found = make(path)._states(waves([9000]), None)
    torch.testing.assert_close(found, states[-1], atol=2e-3, rtol=1e-3)  # its eps is another


def test_what_is_trained(make_teacher) -> None:
    folder = make_teacher()

    def frozen(**changes: object) -> set[str]:
        named = make(folder, **changes).network.named_parameters()
        return {name.split(".")[1] for name, p in named if not p.requires_grad}

    assert frozen() == {"feature_extractor"}
    assert frozen(train_front_end=True) == frozen(from_scratch=True) == set()
    model = make(folder)
    ctc_loss(model(waves(), head_only=True), [[3]] * 5).backward()
    with_gradient = {n for n, p in model.network.named_parameters() if p.grad is not None}
    assert with_gradient == {"lm_head.weight", "lm_head.bias"}
    masks = [np.arange(model.frames(n)) == 0 for n in SIZES]
    ctc_loss(model(waves(), masks), [[3]] * 5).backward()
    with_gradient = {n for n, p in model.network.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in model.network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("norm", "normalize"), [("layer", True), ("group", False)])
@pytest.mark.parametrize("units", ["char", "word"])
def test_the_folder_as_transformers_reads_it(
    make_teacher, tmp_path: Path, kind: str, norm: str, normalize: bool, units: str
) -> None:
    vocabulary = LETTERS if units == "char" else Vocabulary.of(["a dz c b uh"], "word")
    model = make(make_teacher(kind, norm, normalize=normalize), vocabulary)
    save(model, vocabulary, tmp_path)
    transformers = import_transformers()
    theirs = transformers.AutoModelForCTC.from_pretrained(tmp_path).eval()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    clips = waves([9000, 5200])
    hears = recognizer.load(tmp_path)
    texts = set()
    for wave, ours in zip(clips, model(clips), strict=True):
        logits = theirs(**processor(wave, sampling_rate=16000, return_tensors="pt")).logits
        torch.testing.assert_close(logits[0], ours, atol=1e-4, rtol=1e-4)
        options = {"spaces_between_special_tokens": True} if units == "word" else {}
        text = processor.batch_decode(logits.argmax(-1), **options)[0]
        assert " ".join(text.split()) == hears.transcribe(wave)
        texts.add(text)
    assert len(texts) == 2 and "" not in texts
    assert hears.name == str(tmp_path)
    tokenizer = processor.tokenizer
    assert tokenizer.vocab_size == theirs.config.vocab_size == len(vocabulary)
    assert theirs.config.pad_token_id == tokenizer.pad_token_id == 0
    if units == "char":
        assert tokenizer("AB F").input_ids == vocabulary.encode("AB F")


@pytest.mark.parametrize(("kind", "norm"), [("wavlm", "layer"), ("wav2vec2", "group")])
@pytest.mark.parametrize("mask", [0.0, 0.05])
def test_a_fine_tuned_backbone_is_a_teacher(make_teacher, tmp_path, kind, norm, mask) -> None:
    folder = make_teacher(kind, norm, normalize=True)
    model = make(folder, mask=mask)
    with torch.no_grad():
        for parameter in model.network.base_model.encoder.parameters():
            parameter.mul_(1.1)
    save(model, LETTERS, tmp_path)
    states, counts = teacher.load(tmp_path, left_pad=0)(
        torch.from_numpy(waves([9000])[0])[None], torch.tensor([9000])
    )
    torch.testing.assert_close(states[-1], model._states(waves([9000]), None), atol=1e-4, rtol=1e-4)
    before, _ = teacher.load(folder, left_pad=0)(
        torch.from_numpy(waves([9000])[0])[None], torch.tensor([9000])
    )
    assert counts.tolist() == [27] and (before[-1] - states[-1]).abs().max() > 0.01
    # and a backbone again, of another vocabulary
    again = make(tmp_path, Vocabulary.of(["A B"], "word"))
    torch.testing.assert_close(again._states(waves([9000]), None), states[-1], atol=1e-4, rtol=1e-4)


def test_recognizer(make_teacher, tmp_path: Path) -> None:
    save(make(make_teacher()), LETTERS, tmp_path)
    hears = recognizer.load(tmp_path)
    wave = waves()[0]
    assert hears.transcribe(wave) == hears.transcribe(wave) != ""
    assert hears.transcribe(wave[:399]) == hears.transcribe(wave[:0]) == ""
    assert hears.sample_rate == 16000
    for bad, match in ((wave[None], "one channel"), (wave * np.inf, "not finite")):
        with pytest.raises(EnhanceError, match=match):
            hears.transcribe(bad)


def test_folders_that_recognise_nothing(make_teacher, tmp_path: Path) -> None:
    backbone = make_teacher()
    with pytest.raises(EnhanceError, match="finetune-ctc"):
        recognizer.load(backbone)
    with pytest.raises(EnhanceError, match="not there"):
        recognizer.load(tmp_path / "none")
    model = make(backbone)
    save(model, LETTERS, tmp_path)
    dataclasses.replace(LETTERS, tokens=LETTERS.tokens[:-1]).write(tmp_path)
    with pytest.raises(EnhanceError, match="does not fit the head"):
        recognizer.load(tmp_path)
    LETTERS.write(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(EnhanceError, match="do_normalize must be true or false"):
        recognizer.load(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((backbone / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    with pytest.raises(EnhanceError, match=r"weights are missing .*lm_head"):
        recognizer.load(tmp_path)
    for kind in ("wav2vec", ["wavlm"]):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(EnhanceError, match="none of wav2vec2, hubert, wavlm"):
            load(tmp_path)


def test_backbones_without_a_ctc_class(tmp_path: Path, make_teacher) -> None:
    args = arguments()
    torch.save(checkpoint(args, weights(args)), tmp_path / "wav2vec_large.pt")
    with pytest.raises(EnhanceError, match="is no transformer; CTC heads are put on wav2vec2"):
        open_backbone(str(tmp_path / "wav2vec_large.pt"))
    folder = make_teacher(seed=3)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "sampling_rate": 8000})
    )
    with pytest.raises(EnhanceError, match="hears 8000 Hz"):
        open_backbone(str(folder))


def test_the_constant_of_the_mean_reduction() -> None:
    """torch divides by the length of each text before it takes the mean."""
    logits = torch.randn(7, 1, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    total = F.ctc_loss(
        logits, torch.tensor([[1, 2]]), torch.tensor([7]), torch.tensor([2]), reduction="sum"
    )
    assert float(ctc_loss([logits[:, 0]], [[1, 2]])) == pytest.approx(float(total) / 2)
