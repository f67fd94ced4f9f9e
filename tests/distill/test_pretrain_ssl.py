"""Pre-training on a tiny corpus: exact resumption, refusals, and the folder it leaves."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, WavLMModel

from distill import crops, mini_wavlm, pretrain_ssl
from distill.pretrain_config import PretrainConfig, rate, total_from
from distill.pretrain_ssl import pretrain
from enhance.data.clip_store import ClipStore
from enhance.data.manifest import Clip
from enhance.errors import EnhanceError
from enhance.training.state import load_tensors

TINY = PretrainConfig(
    minutes=0,
    steps=(6, 4),
    units=(4, 5),
    unit_layer=1,
    architecture=mini_wavlm.Architecture(
        hidden=16,
        layers=2,
        heads=2,
        feed_forward=32,
        conv_channels=(4, 4, 4, 8, 8, 8, 16),
        positions=8,
        position_groups=2,
    ),
    batch_seconds=2.0,
    crop_seconds=0.8,
    warmup_steps=3,
    held_back=0.2,
    log_every=2,
    validate_every=3,
)
SHIPPED = Path(pretrain_ssl.__file__).parent / "models" / "mini-wavlm"


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of buzzing vowels and two of noise, as wav files in speech/ and noise/."""
    root = tmp_path_factory.mktemp("tiny-corpus")
    rng = np.random.default_rng(0)
    for i in range(12):
        kind = "speech" if i < 10 else "noise"
        n = int(rng.integers(9000, 20000))
        wave = rng.normal(0, 0.02, n)
        if kind == "speech":
            t = np.arange(n) / 16000
            for start in range(0, n, 3200):
                part = slice(start, start + 3200)
                wave[part] += 0.2 * np.sign(np.sin(2 * np.pi * rng.uniform(90, 900) * t[part]))
        (root / kind).mkdir(exist_ok=True)
        soundfile.write(root / kind / f"{i:02d}.wav", wave.astype(np.float32), 16000)
    return root


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    record = pretrain(TINY, tiny_corpus, folder, quiet=True)
    assert [row["steps"] for row in record["iterations"]] == [6, 4]
    return folder


@pytest.mark.parametrize("step", [2, 6, 7])
@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_a_stopped_run_goes_on_exactly(
    tiny_corpus: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    how: str,
) -> None:
    calls = 0

    class Killed(BaseException):
        pass

    def disturbed(config: PretrainConfig, at: int, total: int | None) -> float:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            if how == "kill":
                raise Killed
            signal.raise_signal(signal.SIGINT)
        return rate(config, at, total)

    # A kill loses what was done since the last saved state: here it is one or two steps old.
    config = dataclasses.replace(TINY, checkpoint_seconds=0.0)
    monkeypatch.setattr(pretrain_ssl, "rate", disturbed)
    if how == "kill":
        with pytest.raises(Killed):
            pretrain(config, tiny_corpus, tmp_path, quiet=True)
    else:
        assert "stopped" in pretrain(config, tiny_corpus, tmp_path, quiet=True)
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    pretrain(TINY, tiny_corpus, tmp_path, resume=True, quiet=True)
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert calls == step + 1


def test_training_changes_the_weights_and_lowers_the_loss(whole: Path) -> None:
    start = TINY.architecture.build(TINY.seed).state_dict()
    end = load_file(whole / "model.safetensors")
    assert set(start) == set(end)
    # A bias of all keys shifts the attention logits of a query alike: its gradient is zero
    frozen = [n for n in start if torch.equal(start[n].half(), end[n])]
    assert [n for n in frozen if not n.endswith("k_proj.bias")] == []
    rows = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in rows if r["type"] == "train" and r["iteration"] == 1]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert {r["type"] for r in rows} == {"train", "validation"}


def test_the_folder_is_one_of_transformers(whole: Path) -> None:
    assert {t.dtype for t in load_file(whole / "model.safetensors").values()} == {torch.float16}
    model = WavLMModel.from_pretrained(whole)
    assert model.dtype == torch.float32  # as config.json says, though the file is fp16
    preprocessor = AutoFeatureExtractor.from_pretrained(whole)
    assert preprocessor.do_normalize
    wave = np.random.default_rng(1).normal(0.1, 0.3, 6000).astype(np.float32)
    theirs = preprocessor(wave, sampling_rate=16000, return_tensors="pt").input_values
    np.testing.assert_allclose(crops.normalize(wave[None]), theirs.numpy(), atol=1e-5)
    with torch.no_grad():
        states = model.eval()(theirs, output_hidden_states=True).hidden_states
    ours = mini_wavlm.hidden_states(mini_wavlm.load(whole), wave)
    assert ours.shape == (3, (6000 - 400) // 320 + 1, 16)
    np.testing.assert_allclose(ours, torch.cat(states).numpy(), atol=1e-4)


def test_the_card_tells_the_record(whole: Path) -> None:
    card = (whole / "README.md").read_text()
    record = json.loads((whole / "record.json").read_text())
    accuracy = record["iterations"][1]["clean"]["accuracy"]["mean"]
    assert card.startswith("---\nlicense: ")
    assert f"{100 * accuracy:.1f} %" in card
    assert "Not measured." in card
    assert "--steps 6 --steps 4 --units 4 --units 5" in card


def test_front_end_equals_the_models_own() -> None:
    model = TINY.architecture.build(3)
    waves = torch.randn(2, 3000)
    own = type(model.feature_extractor).forward
    with torch.no_grad():
        np.testing.assert_allclose(
            mini_wavlm.front_end(model.feature_extractor, waves),
            own(model.feature_extractor, waves),
            atol=1e-5,  # layer-normalised values, float32
        )


@pytest.fixture(scope="module")
def store(tiny_corpus: Path) -> ClipStore:
    paths = sorted((tiny_corpus / "speech").glob("*.wav"))
    return ClipStore([Clip(p, soundfile.info(p).duration, 16000) for p in paths], quiet=True)


def test_every_file_is_heard_once_an_epoch_on_the_frame_grid(store: ClipStore) -> None:
    batches = crops.plan(store, range(10), 100, 30, np.random.default_rng(0))
    heard = [crop.clip for batch in batches for crop in batch]
    assert set(heard) == set(range(10))
    for batch in batches:
        assert len({crop.frames for crop in batch}) == 1
        assert len(batch) == 1 or len(batch) * batch[0].frames <= 100
        for crop in batch:
            assert crop.frames <= 30
            found = crop.read(store)
            first = crop.start * 320
            assert np.array_equal(found, store.whole(crop.clip)[first : first + len(found)])
            assert (len(found) - 400) // 320 + 1 == crop.frames


def test_epochs_begin_at_any_step(store: ClipStore) -> None:
    def take(first: int, count: int) -> list[list[crops.Crop]]:
        stream = crops.epochs(store, range(10), 100, 30, [1, 2], first)
        return [next(stream)[1] for _ in range(count)]

    assert take(0, 12)[9:] == take(9, 3)


def test_disturbance_has_the_ratio_it_was_asked_for(store: ClipStore) -> None:
    rng = np.random.default_rng(2)
    clean = np.stack([store.read(i, 0, 8000) for i in range(8)])
    for ratio in (-5.0, 12.0):
        config = crops.Disturbance(1.0, (ratio, ratio), 0.0)
        mixed, kinds = crops.disturb(clean, store, [9], config, rng)
        assert kinds == ["noise"] * 8
        snr = 10 * np.log10((clean**2).sum(1) / ((mixed - clean) ** 2).sum(1))
        np.testing.assert_allclose(snr, ratio, atol=0.01)
    config = crops.Disturbance(0.0, (0, 0), 1.0, (3.0, 3.0))
    mixed, kinds = crops.disturb(clean, None, [], config, rng)
    assert kinds == ["speech"] * 8
    for b in range(8):
        touched = np.flatnonzero(mixed[b] != clean[b])
        assert 0 < np.ptp(touched) + 1 <= 4000  # at most half of the crop
    shares = crops.Disturbance()
    counted = [k for _ in range(300) for k in crops.disturb(clean, store, [9], shares, rng)[1]]
    assert abs(counted.count("noise") / 2400 - 0.25) < 0.04
    assert abs(counted.count("speech") / 2400 - 0.15) < 0.03


def test_learning_rate_and_the_clock() -> None:
    rates = [rate(TINY, s, 40) for s in range(40)]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert set(rates[2:31]) == {1e-3}
    assert rates[30:] == pytest.approx([1e-4 * (10 - i) for i in range(10)])
    # a clock that strikes at step s gives a number of steps whose own last quarter begins at s
    for s in range(3, 400):
        total = total_from(s)
        assert total - total // 4 == s


def test_front_end_learns_before_the_transformer(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(self: pretrain_ssl.Pretraining, *_: object) -> bool:
        seen.append({n: t.clone() for n, t in self.model.state_dict().items()})
        return False

    monkeypatch.setattr(pretrain_ssl.Pretraining, "_train", stop)
    for steps in (0, 3):
        config = dataclasses.replace(TINY, front_end_steps=steps)
        pretrain(config, tiny_corpus, tmp_path / str(steps), quiet=True)
    moved = {n for n in seen[0] if not torch.equal(seen[0][n], seen[1][n])}
    assert {n.split(".")[0] for n in moved} == {"feature_extractor", "feature_projection"}
    assert "feature_extractor.conv_layers.0.conv.weight" in moved
    # Stopped between warm-up and first step: the head start is not given twice
    monkeypatch.undo()
    pretrain(config, tiny_corpus, tmp_path / "3", resume=True, quiet=True)
    pretrain(config, tiny_corpus, tmp_path / "unstopped", quiet=True)
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("3", "unstopped")]
    assert weights[0] == weights[1]


def test_minutes_end_a_run(tiny_corpus: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, minutes=0.02, steps=(), iterations=1)
    record = pretrain(config, tiny_corpus, tmp_path / "a", quiet=True)
    steps = record["iterations"][0]["steps"]
    again = dataclasses.replace(config, minutes=0, steps=(steps,))
    pretrain(again, tiny_corpus, tmp_path / "b", quiet=True)
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in "ab"]
    assert weights[0] == weights[1]


def test_what_is_refused(tiny_corpus: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="--family hubert: unknown; there is wavlm"):
        dataclasses.replace(TINY, family="hubert")
    with pytest.raises(EnhanceError, match="--minutes or --steps"):
        dataclasses.replace(TINY, minutes=0, steps=())
    with pytest.raises(EnhanceError, match="holds a run already; --resume"):
        pretrain(TINY, tiny_corpus, whole, quiet=True)
    with pytest.raises(EnhanceError, match="begun with another seed"):
        pretrain(dataclasses.replace(TINY, seed=1), tiny_corpus, whole, resume=True, quiet=True)
    with pytest.raises(EnhanceError, match="no run to go on with"):
        pretrain(TINY, tiny_corpus, tmp_path, resume=True, quiet=True)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "trainer.safetensors").write_text("no")
    with pytest.raises(EnhanceError, match="not a whole safetensors file"):
        pretrain(TINY, tiny_corpus, tmp_path, resume=True, quiet=True)


def test_a_loss_that_is_not_finite_names_step_seed_and_files(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain_ssl, "normalize", lambda waves: waves * np.float32(np.nan))
    with pytest.raises(EnhanceError, match=r"iteration 1, step 1: the loss is nan \(seed 0.*wav"):
        pretrain(TINY, tiny_corpus, tmp_path, quiet=True)


def test_state_holds_no_pickle(whole: Path) -> None:
    tensors, header = load_tensors(whole / "state" / "trainer.safetensors", pretrain_ssl.FORMAT)
    assert header["config"]["units"] == [4, 5]
    assert tensors


@pytest.mark.skipif(
    not (SHIPPED / "model.safetensors").is_file(),
    reason=f"SHIPPED TEACHER MISSING: {SHIPPED} holds no model.safetensors",
)
def test_the_shipped_model_works() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 8_000_000
    model = mini_wavlm.load(SHIPPED)
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    states = mini_wavlm.hidden_states(model, wave)
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    assert states.shape == (layers + 1, 49, width)
    assert np.isfinite(states).all()
    assert states.std(axis=(1, 2)).min() > 1e-3
    record = json.loads((SHIPPED / "record.json").read_text())
    last = record["iterations"][-1]["clean"]
    assert last["accuracy"]["low"] > last["majority"]["high"] > last["chance"]
    over_twin = record["phone_probe"]["gains"][-1]
    assert over_twin["over"].startswith("random twin")
    assert over_twin["low"] > 0
