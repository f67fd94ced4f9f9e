"""The shared loop on a tiny WavLM: exact resumption, refusals, and the folder it leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, WavLMModel

from distill.backbones.find import load
from distill.ssl import run as pretrain_ssl
from distill.ssl.data import crops
from distill.ssl.families import masked_units, transformer
from distill.ssl.families.family import PRESETS, SslConfig, configure
from distill.ssl.families.masked_units import MaskedUnitsConfig
from distill.ssl.run import pretrain
from distill.teacher import windows
from distill.training.config import total_from
from distill.training.loop import Loop
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors

TINY = MaskedUnitsConfig(
    minutes=0,
    steps=(6, 4),
    units=(4, 5),
    unit_layer=1,
    architecture=transformer.Architecture(
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
SHIPPED = Path(pretrain_ssl.__file__).parents[1] / "models" / "mini-wavlm"


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

    def disturbed(config: SslConfig, at: int, total: int | None) -> float:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            if how == "kill":
                raise Killed
            signal.raise_signal(signal.SIGINT)
        return rate(config, at, total)

    # A kill loses what was done since the last saved state: here it is one or two steps old.
    config = dataclasses.replace(TINY, checkpoint_seconds=0.0)
    rate = SslConfig.rate
    monkeypatch.setattr(SslConfig, "rate", disturbed)
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


def test_a_run_goes_on_with_its_own_recordings_only(
    tiny_corpus: Path, whole: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_corpus, other)
    next((other / "speech").glob("*.wav")).unlink()
    with pytest.raises(EnhanceError, match="was begun with other recordings than those of"):
        pretrain(TINY, other, whole, resume=True, quiet=True)


def test_the_mini_teachers_recipe_still_makes_the_same_model(whole: Path) -> None:
    """Figures of the code that made the shipped teacher, written down before families came."""
    rows = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    found = [(r["type"][0], r["iteration"], r["step"], r["loss"], r["accuracy"]) for r in rows]
    expected = [
        ("t", 1, 2, 1.8902040719985962, 0.09722222222222222),
        ("v", 1, 3, 1.564406238902699, 0.32727272727272727),
        ("t", 1, 4, 1.5800853967666626, 0.20270270270270271),
        ("t", 1, 6, 1.4378334283828735, 0.2948717948717949),
        ("v", 1, 6, 1.4373336791992188, 0.10909090909090909),
        ("t", 2, 8, 1.9221910238265991, 0.09210526315789473),
        ("v", 2, 9, 1.6799419056285512, 0.23636363636363636),
        ("t", 2, 10, 1.829538881778717, 0.1388888888888889),
    ]
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    # Other processors round float32 sums otherwise; the losses move by tenths between the steps
    np.testing.assert_allclose([r[3] for r in found], [r[3] for r in expected], rtol=2e-3)
    # One frame in 55 may flip by such a rounding
    np.testing.assert_allclose([r[4] for r in found], [r[4] for r in expected], atol=0.02)


def test_the_preset_is_the_shipped_teachers_recipe() -> None:
    record = json.loads((SHIPPED / "record.json").read_text())
    config = configure(None, "mini-wavlm", {})
    assert list(config.steps) == [row["steps"] for row in record["iterations"]]
    ours = json.loads(json.dumps(dataclasses.asdict(config)))
    free = {"steps", "minutes"}  # the clock decided there, the steps it came to do here
    for key in record["config"].keys() - free - {"disturbance"}:
        assert ours[key] == record["config"][key], key
    mix = dict(ours["disturbance"])
    # What the record does not name was so at its time: at most half, no rooms
    assert mix.pop("speech_overlap") == [0.0, 0.5]
    assert mix.pop("reverberation_probability") == 0.0
    assert {k: mix[k] for k in record["config"]["disturbance"]} == record["config"]["disturbance"]


def test_the_family_wavlm_mixes_as_its_paper_and_the_preset_as_before() -> None:
    mix = configure("wavlm", None, {}).disturbance
    assert mix.noise_snr == (-5.0, 20.0)
    assert mix.speech_overlap == (0.25, 0.75)
    assert mix.reverberation_probability > 0
    quiet = configure("hubert", None, {}).disturbance
    assert quiet.noise_probability == quiet.speech_probability == 0
    assert quiet.reverberation_probability == 0
    assert configure(None, None, {}).family == "wavlm"
    assert set(PRESETS) >= {"wav2vec", "vq-wav2vec", "wav2vec2", "hubert", "wavlm", "mini-wavlm"}


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
    ours = transformer.hidden_states(transformer.with_fast_front_end(model), wave)
    assert ours.shape == (3, (6000 - 400) // 320 + 1, 16)
    np.testing.assert_allclose(ours, torch.cat(states).numpy(), atol=1e-4)


def test_units_of_a_long_recording_are_heard_in_windows(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention costs memory by the square of the length."""
    model = WavLMModel.from_pretrained(whole).eval()
    wave = np.random.default_rng(2).normal(0.1, 0.3, 61234).astype(np.float32)
    at_once = transformer.hidden_states(model, wave)
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.2)
    longest = []
    model.register_forward_pre_hook(lambda _, given: longest.append(given[0].shape[1]))
    found = transformer.hidden_states(model, wave)
    assert found.shape == at_once.shape and max(longest) < 61234 / 2
    np.testing.assert_allclose(found[0], at_once[0], atol=1e-5)
    assert np.abs(found[1] - at_once[1]).max() > 1e-4  # attention hears the window


def test_the_card_tells_the_record(whole: Path) -> None:
    card = (whole / "README.md").read_text()
    record = json.loads((whole / "record.json").read_text())
    accuracy = record["iterations"][1]["clean"]["accuracy"]["mean"]
    assert card.startswith("---\n") and "\nlicense: unknown\n" in card.split("---\n")[1]
    assert f"{100 * accuracy:.1f} %" in card
    assert "Not measured." in card
    assert "--steps 6 --steps 4 --units 4 --units 5" in card
    # The command names what differs from the nearest preset, and nothing else
    assert "--preset mini-wavlm" in card
    assert "--set 'architecture.hidden=16'" in card
    assert "--set 'learning_rate" not in card
    assert len(record["curve"]) == 3
    for row in record["curve"]:
        assert f"| {row['step']} | {row['loss']:.3f} | {100 * row['accuracy']:.1f} % |" in card
    code = record["iterations"][1]["codes"][0]
    assert f"| 2 | 1 | 5 | {code['used']} | {code['perplexity']:.1f} |" in card


def test_what_the_probe_finds_stands_in_record_and_card(
    whole: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    share = {"mean": 0.5, "low": 0.375, "high": 0.625}
    found = {
        "corpus": ["made"], "phones": 3, "frames": 70, "utterances": 7, "speakers": 2,
        "split": "each speaker left out in turn", "best": "model, hidden state 1",
        "rows": [{"features": "MFCC, deltas", **share}],
        "gains": [{"over": "MFCC, deltas", **share}],
    }  # fmt: skip
    asked: list[Path] = []

    def probe(model: Path) -> dict[str, Any]:
        asked.append(model)
        assert (model / "model.safetensors").is_file()  # the folder is finished
        return found

    pretrain(TINY, tiny_corpus, folder, resume=True, probe=probe, quiet=True)
    assert asked == [folder]
    assert json.loads((folder / "record.json").read_text())["phone_probe"] == found
    card = (folder / "README.md").read_text()
    assert "- over MFCC, deltas: +50.0 (+37.5 to +62.5)" in card and "Not measured." not in card


def test_front_end_equals_the_models_own() -> None:
    model = TINY.architecture.build(3)
    waves = torch.randn(2, 3000)
    own = type(model.feature_extractor).forward
    with torch.no_grad():
        np.testing.assert_allclose(
            transformer.front_end(model.feature_extractor, waves),
            own(model.feature_extractor, waves),
            atol=1e-5,  # layer-normalised values, float32
        )


def test_learning_rate_and_the_clock() -> None:
    rates = [TINY.rate(s, 40) for s in range(40)]
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

    def stop(self: Loop, learner: pretrain_ssl.FamilyLearner, *_: object, **__: object) -> bool:
        seen.append({n: t.clone() for n, t in learner.family.model.state_dict().items()})
        self.save(learner.learnt())
        return False

    monkeypatch.setattr(Loop, "train", stop)
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
    with pytest.raises(EnhanceError, match="--family bert: unknown; there are wav2vec,"):
        configure("bert", None, {})
    with pytest.raises(EnhanceError, match="--preset big: unknown; there are"):
        configure(None, "big", {})
    with pytest.raises(EnhanceError, match="--family hubert: --preset mini-wavlm is of the family"):
        configure("hubert", "mini-wavlm", {})
    with pytest.raises(EnhanceError, match=r"unknown key 'heads_'; did you mean 'heads'\?"):
        configure("wavlm", None, {"architecture": {"heads_": 3}})
    with pytest.raises(EnhanceError, match="unknown key 'units'"):
        configure("wav2vec2", None, {"units": [3]})
    with pytest.raises(EnhanceError, match="--minutes or --steps"):
        dataclasses.replace(TINY, minutes=0, steps=())
    with pytest.raises(EnhanceError, match="holds a run already; --resume"):
        pretrain(TINY, tiny_corpus, whole, quiet=True)
    with pytest.raises(EnhanceError, match="begun with another seed"):
        pretrain(dataclasses.replace(TINY, seed=1), tiny_corpus, whole, resume=True, quiet=True)
    with pytest.raises(EnhanceError, match="no run to go on with"):
        pretrain(TINY, tiny_corpus, tmp_path, resume=True, quiet=True)
    future = configure("wav2vec", None, {})
    with pytest.raises(EnhanceError, match="--probe: knows the frames of wavlm, hubert, wav2vec2"):
        pretrain(future, tiny_corpus, tmp_path, probe=lambda _: {}, quiet=True)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "trainer.safetensors").write_text("no")
    with pytest.raises(EnhanceError, match="not a whole safetensors file"):
        pretrain(TINY, tiny_corpus, tmp_path, resume=True, quiet=True)


def test_a_loss_that_is_not_finite_names_step_seed_and_files(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_units, "normalize", lambda waves: waves * np.float32(np.nan))
    with pytest.raises(EnhanceError, match=r"iteration 1, step 1: the loss is nan \(seed 0.*wav"):
        pretrain(TINY, tiny_corpus, tmp_path, quiet=True)


def test_state_holds_no_pickle(whole: Path) -> None:
    tensors, header = load_tensors(whole / "state" / "trainer.safetensors", pretrain_ssl.FORMAT)
    assert header["config"]["units"] == [4, 5]
    own = TINY.architecture.build(0).state_dict()
    assert {f"model.{name}" for name in own} < set(tensors)


@pytest.mark.skipif(
    not (SHIPPED / "model.safetensors").is_file(),
    reason=f"SHIPPED TEACHER MISSING: {SHIPPED} holds no model.safetensors",
)
def test_the_shipped_model_works() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 8_000_000
    teacher = load(SHIPPED.name, left_pad=0)
    waves = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, 16000)))
    states = teacher(waves.float(), torch.tensor([16000]))[0][:, 0].numpy()
    assert states.shape == (teacher.num_layers + 1, 49, teacher.widths[0])
    assert np.isfinite(states).all()
    assert states.std(axis=(1, 2)).min() > 1e-3
    record = json.loads((SHIPPED / "record.json").read_text())
    last = record["iterations"][-1]["clean"]
    assert last["accuracy"]["low"] > last["majority"]["high"] > last["chance"]
    over_twin = record["phone_probe"]["gains"][-1]
    assert over_twin["over"].startswith("random twin")
    assert over_twin["low"] > 0
