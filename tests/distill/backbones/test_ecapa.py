"""ECAPA-TDNN behind the teacher contract, from own and published folders.

speechbrain's own pipeline (`EncoderClassifier`) is the independent check of embeddings and of the
published layout.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.backbones import ecapa, ecapa_model, ecapa_published
from distill.backbones.ecapa_model import Ecapa, EcapaConfig
from distill.teacher.frames import FrameGrid
from enhance.errors import EnhanceError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("speechbrain") is None, reason="needs the extra `speaker`"
)

TINY = EcapaConfig(
    channels=(16, 16, 16, 16, 24),
    attention_channels=8,
    res2net_scale=4,
    se_channels=8,
    embedding=12,
)
PUBLISHED = """\
# Feature parameters
n_mels: 80

# Pretrain folder
pretrained_path: {folder}

# Output parameters
out_n_neurons: 7

# Model params
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    res2net_scale: 4
    se_channels: 8
    lin_neurons: 12

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 12
    out_neurons: !ref <out_n_neurons>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def stirred(model: Ecapa, seed: int = 1) -> Ecapa:
    """Fresh norms are the identity and fresh biases nearly so: make them count."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, tensor in model.network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.ndim == 1:
                tensor += 0.2 * torch.randn_like(tensor)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Ecapa:
    return stirred(TINY.build(0))


@pytest.fixture(scope="module")
def own(model: Ecapa, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    ecapa_model.save(model, folder)
    return folder


@pytest.fixture
def published(model: Ecapa, tmp_path: Path) -> Path:
    """The files of speechbrain/spkrec-ecapa-voxceleb, with a tiny network in them."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(PUBLISHED.format(folder=folder))
    (folder / "config.json").write_text('{"speechbrain_interface": "SpeakerRecognition"}')
    torch.save(model.network.state_dict(), folder / "embedding_model.ckpt")
    norm = {"count": 3, "glob_mean": torch.ones(12), "glob_std": torch.tensor([1.0])}
    norm |= {"spk_dict_mean": {}, "spk_dict_std": {}, "spk_dict_count": {}}
    torch.save(norm, folder / "mean_var_norm_emb.ckpt")
    torch.save({"weight": torch.zeros(7, 12)}, folder / "classifier.ckpt")
    names = "".join(f"'s{i}' => {i}\n" for i in range(7))
    (folder / "label_encoder.txt").write_text(f"{names}================\n'starting_index' => 0\n")
    return folder


def waves(*sizes: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    batch = np.zeros((len(sizes), max(sizes)), np.float32)
    for row, n in enumerate(sizes):
        tone = np.sin(2 * np.pi * (110 + 70 * row) * np.arange(n) / 16000)
        batch[row, :n] = 0.1 * tone * rng.uniform(0.2, 1, n) + 0.01 * rng.normal(size=n)
    return torch.from_numpy(batch), torch.tensor(sizes)


def test_the_published_folder_equals_speechbrains_own_pipeline(published: Path) -> None:
    from speechbrain.inference.classifiers import EncoderClassifier

    theirs = EncoderClassifier.from_hparams(str(published), savedir=str(published))
    assert isinstance(theirs, EncoderClassifier)
    teacher = ecapa.load(published, "published")
    batch, _ = waves(16000, 16000)
    expected = theirs.encode_batch(batch).squeeze(1)  # (B, E)
    assert teacher.embedding(batch).shape == (2, 12)
    torch.testing.assert_close(teacher.embedding(batch), expected, rtol=1e-4, atol=1e-5)


def test_hidden_states_are_the_outputs_of_speechbrains_blocks(own: Path) -> None:
    from speechbrain.lobes.features import Fbank
    from speechbrain.processing.features import InputNormalization

    teacher = ecapa.load(own, "own", left_pad=200)
    seen: list[torch.Tensor] = []
    network = teacher.model.network
    hooks = [
        m.register_forward_hook(lambda _m, _i, out: seen.append(out.transpose(1, 2)))
        for m in [*network.blocks, network.mfa]
    ]
    batch, lengths = waves(12345)
    mel = InputNormalization(norm_type="sentence", std_norm=False)(Fbank(n_mels=80)(batch))
    with torch.no_grad():
        expected = network(mel).squeeze(1)
    for hook in hooks:
        hook.remove()
    hidden, counts = teacher(batch, lengths)
    assert teacher.num_layers == 4 and len(hidden) == len(seen) == 5
    assert teacher.widths == (16, 16, 16, 16, 24)
    assert counts.tolist() == [12345 // 160 + 1] and hidden.shape == (5, 1, 78, 24)
    for state, block, width in zip(hidden, seen, teacher.widths, strict=True):
        torch.testing.assert_close(state[..., :width], block, rtol=1e-4, atol=1e-4)
        assert not state[..., width:].any()
    torch.testing.assert_close(teacher.embedding(batch), expected, rtol=1e-4, atol=1e-4)


def test_frames_stand_where_the_contract_says(own: Path) -> None:
    """An impulse moves exactly the log-mel frames whose field holds it."""
    for left_pad in (None, 200, 0):
        teacher = ecapa.load(own, "own", left_pad=left_pad)
        assert teacher.offset_samples == -(240 if left_pad is None else left_pad)
        quiet = 1e-3 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
        loud = quiet.clone()
        loud[0, 4000] = 0.5
        pad = teacher.left_pad
        # Before the sentence mean, and above the lowest filters (narrower than a bin of the DFT,
        # so empty and at the floor 80 dB under the loudest): both would move every frame
        with torch.no_grad():
            mel = [teacher.model.fbank(nn.functional.pad(x, (pad, 200))) for x in (quiet, loud)]
        moved = (mel[0] - mel[1])[..., 40:].abs().amax(-1)[0] > 1.0  # dB
        start = teacher.offset_samples + 160 * torch.arange(teacher.frames(8000))
        assert moved.tolist() == ((start <= 4000) & (start + 400 > 4000)).tolist()
    grid = FrameGrid.of_teacher(ecapa.load(own, "own"))
    assert (grid.offset, grid.stride, grid.field) == (-240, 160, 400)


def test_company_never_changes_a_frame(own: Path) -> None:
    teacher = ecapa.load(own, "own")
    batch, lengths = waves(9000, 16000, 9000, 700, 300)
    hidden, counts = teacher(batch, lengths)
    vectors = teacher.embedding(batch[:4], lengths[:4])
    assert counts.tolist() == [teacher.frames(int(n)) for n in lengths] and counts[4] == 0
    for row, n in enumerate(lengths.tolist()):
        alone, count = teacher(batch[row : row + 1, :n], torch.tensor([n]))
        assert count.item() == counts[row]
        torch.testing.assert_close(
            hidden[:, row, : count.item()], alone[:, 0], rtol=1e-5, atol=1e-5
        )
        assert not hidden[:, row, count.item() :].any()
        if row < 4:
            vector = teacher.embedding(batch[row : row + 1, :n])[0]
            torch.testing.assert_close(vectors[row], vector, rtol=1e-5, atol=1e-5)


def test_speechbrains_masks_would_change_frames(own: Path) -> None:
    """Why lengths are not left to speechbrain: its mirrors at the ends see the padding."""
    network = ecapa.load(own, "own").model.network
    mel = torch.randn(1, 60, 80, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([mel, torch.zeros(1, 60, 80)], 1)
    with torch.no_grad():
        alone = network(mel)
        masked = network(padded, lengths=torch.tensor([0.5]))
    assert (alone - masked).abs().max() > 1e-4  # rounding is below 1e-6


def test_reach_of_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """`context_frames` by gradient, squeeze-excitation bypassed."""
    assert EcapaConfig().context_frames == (2, 16, 37, 65, 65)
    model = TINY.build(0).eval()
    for parameter in model.network.parameters():
        parameter.data.abs_()  # no rectifier closes
    for block in list(model.network.blocks)[1:]:
        monkeypatch.setattr(block.se_block, "forward", lambda x, lengths=None: x)
    features = torch.rand(1, 161, 80, requires_grad=True)
    for state, reach in zip(model.states(features), TINY.context_frames, strict=True):
        (grad,) = torch.autograd.grad(state[0, :, 80].sum(), features, retain_graph=True)
        touched = grad[0].abs().sum(-1).nonzero().flatten()
        assert (int(touched.min()), int(touched.max())) == (80 - reach, 80 + reach)


def test_it_is_frozen_and_its_print_tells_weights_and_padding(own: Path, tmp_path: Path) -> None:
    teacher = ecapa.load(own, "a")
    assert not teacher.causal and not teacher.train().training
    assert not any(p.requires_grad for p in teacher.parameters())
    prints = {teacher.fingerprint, ecapa.load(own, "b", left_pad=200).fingerprint}
    ecapa_model.save(stirred(TINY.build(0), seed=2), tmp_path)
    prints.add(ecapa.load(tmp_path, "c").fingerprint)
    assert len(prints) == 3 and ecapa.load(own, "d").fingerprint == teacher.fingerprint


def test_the_front_door_finds_both_kinds(own: Path, published: Path) -> None:
    from distill.backbones.find import load

    ours, theirs = load(own), load(published)
    assert ours.widths == theirs.widths and ours.fingerprint == theirs.fingerprint


def test_fewest_samples(own: Path) -> None:
    teacher = ecapa.load(own, "own")
    shortest = next(n for n in range(2000) if teacher.frames(n))
    hidden, counts = teacher(*waves(shortest))
    assert counts.tolist() == [5] and torch.isfinite(hidden).all()
    assert teacher.frames(shortest - 1) == 0 == teacher.frames(0)
    with pytest.raises(EnhanceError, match="too short"):
        teacher.embedding(torch.zeros(1, 100))


def test_settings_are_never_executed(published: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    text = (published / "hyperparams.yaml").read_text()
    (published / "hyperparams.yaml").write_text(
        text + f"\nevil: !apply:pathlib.Path.touch\n    - !new:pathlib.Path [{trap}]\n"
    )
    assert ecapa.load(published, "x").embedding_size == 12
    assert not trap.exists()
    (published / "hyperparams.yaml").write_text(text + "\nevil: !!python/name:os.system\n")
    with pytest.raises(EnhanceError, match="cannot be read as settings"):
        ecapa.load(published, "x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_mels: !ref <n_mels>\n\nmean", "n_mels: !ref <n>\n\nmean", "leads to no plain value"),
        ("n_mels: !ref <n_mels>\n\nmean", "n_mels: 40\n\nmean", "does not fit"),
        ("n_mels: !ref <n_mels>\n\nmean", "n_mels: 80\n    deltas: True\n\nmean", "deltas"),
        ("norm_type: sentence", "norm_type: global", "mean_var_norm"),
        ("ECAPA_TDNN.ECAPA_TDNN", "Xvector.Xvector", "only speechbrain's ECAPA-TDNN"),
        ("lin_neurons: 12", "lin_neurons: 13", "do not fit the model"),
        ("lin_neurons: 12", "lin_neurons: twelve", "embedding: expected int"),
        ("lin_neurons: 12", "lin_neurons: 12\n    magic: 1", "magic"),
        ("lin_neurons: 12", "lin_neurons: 12\n    groups: [3, 1, 1, 1, 1]", "make no network"),
        ("out_n_neurons: 7", "out_n_neurons: 2001-99-99", "cannot be read as settings"),
        ("n_mels: 80\n", "n_mels: 80\n? !a [1]\n: 2\n", "cannot be read as settings"),
    ],
)
def test_foreign_settings_are_refused(published: Path, old: str, new: str, message: str) -> None:
    path = published / "hyperparams.yaml"
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new))
    with pytest.raises(EnhanceError, match=message):
        ecapa.load(published, "x")


def test_a_pickle_with_code_is_refused(published: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "bomb",))

    torch.save({"blocks": Bomb()}, published / "embedding_model.ckpt")
    with pytest.raises(EnhanceError, match="cannot be read as weights"):
        ecapa.load(published, "x")
    (published / "embedding_model.ckpt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(EnhanceError, match="cannot be read as weights"):
        ecapa.load(published, "x")
    assert not (tmp_path / "bomb").exists()


def test_bad_own_folders(own: Path, tmp_path: Path) -> None:
    def copy(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in own.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        if changes:
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    with pytest.raises(EnhanceError, match="unknown key 'speed'"):
        ecapa.load(copy("a", speed=3), "x")
    with pytest.raises(EnhanceError, match="do not fit the model"):
        ecapa.load(copy("b", embedding=7), "x")
    with pytest.raises(EnhanceError, match="cannot be split"):
        ecapa.load(copy("c", res2net_scale=5), "x")
    broken = copy("d")
    (broken / "model.safetensors").write_bytes(b"short")
    with pytest.raises(EnhanceError, match="cannot be read as weights"):
        ecapa.load(broken, "x")
    loud = copy("e")
    prepare = json.loads((loud / "preprocessor_config.json").read_text()) | {"do_normalize": True}
    (loud / "preprocessor_config.json").write_text(json.dumps(prepare))
    with pytest.raises(EnhanceError, match="do_normalize"):
        ecapa.load(loud, "x")
    with pytest.raises(EnhanceError, match="left_pad 400"):
        ecapa.load(own, "x", left_pad=400)


def test_without_speechbrain_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnhanceError, match=r"pip install 'enhance\[speaker\]'"):
        TINY.build(0)


def test_a_broken_torchaudio_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(ecapa_model.importlib, "import_module", broken)
    with pytest.raises(EnhanceError, match=r"libcudart.*fits the installed torch"):
        TINY.build(0)


def test_importing_speechbrain_leaves_tf32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    quirks = importlib.import_module("speechbrain.utils.quirks")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    # What `import speechbrain` does the first time
    monkeypatch.setattr(ecapa_model.importlib, "import_module", lambda _: quirks.allow_tf32())
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        ecapa_model.import_speechbrain("speechbrain")
        assert not matmul.allow_tf32 and not cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def test_a_published_folder_without_weights_is_told(own: Path, published: Path) -> None:
    assert ecapa_published.is_published(published) and not ecapa_published.is_published(own)
    (published / "embedding_model.ckpt").unlink()
    with pytest.raises(EnhanceError, match=r"embedding_model\.ckpt: cannot be read as weights"):
        ecapa.load(published, "x")
