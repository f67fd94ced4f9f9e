"""Training: it learns, it repeats itself to the bit, it stops where it must."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from enhance.config import DataConfig, RunConfig, TrainingConfig
from enhance.data.corpus.clips import load_clips
from enhance.data.mixing.loader import batches
from enhance.errors import EnhanceError
from enhance.files import read_jsonl, sha256
from enhance.network.checkpoint import load_model, read_info
from enhance.network.tensors import load_tensors
from enhance.network.waveform_model import WaveformModel
from enhance.training.engine.engine import seed_everything
from enhance.training.engine.processes import Hardware, resolve
from enhance.training.loop import fit
from enhance.training.objective import Enhancement, Objective
from enhance.training.optim.ema import Ema
from enhance.training.run.run_folder import write_heard
from enhance.training.validation import Validation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A run that nothing disturbed."""
    settings = tiny.config(data)
    run = tmp_path_factory.mktemp("straight") / "run"
    summary = fit(settings, Enhancement(settings.loss), run, quiet=True)
    assert (summary["stopped"], summary["step"]) == ("finished", 12)
    return settings, run


@pytest.fixture
def soon_settled() -> Iterator[None]:
    """For what is compared with no run of another process."""
    with tiny.little_settling():
        yield


@pytest.mark.usefixtures("soon_settled")
def test_learns(data: Path, tmp_path: Path) -> None:
    settings = tiny.config(data, steps=70, epoch_size=4, validate_every=0, log_every=5)
    settings = replace(settings, training=replace(settings.training, learning_rate=5e-3))
    fit(settings, Enhancement(settings.loss), tmp_path / "run", quiet=True)
    losses = [row["loss"] for row in tiny.rows(tmp_path / "run", "train")]
    # Four mixtures again and again: the mean of five steps must fall far.
    assert losses[-1] < 0.6 * losses[0]
    assert losses[-1] < losses[len(losses) // 2] < losses[0]


def test_record(straight: tuple[RunConfig, Path]) -> None:
    _, run = straight
    train = tiny.rows(run, "train")
    assert [row["step"] for row in train] == list(range(1, 13))
    for row in train:
        assert row["loss"] == pytest.approx(sum(row["losses"].values()), rel=1e-12)
        assert row["gradient_norm"] > 0
    assert set(train[0]["losses"]) == {"complex", "magnitude", "si_sdr"}
    checks = tiny.rows(run, "validation")
    assert [row["step"] for row in checks] == [5, 10, 12]
    assert all(1 < row["pesq_wb"] < 4.7 for row in checks)
    # The kept weights are those of the best validation, and measure what the record says.
    best = max(checks, key=lambda row: row["si_sdr"])
    _, header = load_tensors(run / "model.safetensors", "enhance-model-1")
    assert header["score"]["step"] == best["step"]
    assert header["score"]["si_sdr"] == best["si_sdr"]
    assert any((run / "tensorboard").iterdir())
    kinds = [row["type"] for row in read_jsonl(run / "timing.jsonl")]
    assert (kinds[0], kinds[-1]) == ("start", "stop")


def test_heard(straight: tuple[RunConfig, Path]) -> None:
    settings, run = straight
    heard = read_jsonl(run / "heard.jsonl")
    corpus = Path(settings.data.corpus)
    assert sorted(row["path"] for row in heard) == sorted(
        path.relative_to(corpus).as_posix() for path in corpus.rglob("*.wav")
    )
    assert {(row["kind"], row["part"]) for row in heard} == {
        (kind, part) for kind in ("speech", "noise") for part in ("train", "validation")
    }
    for row in heard:
        assert row["sha256"] == hashlib.sha256((corpus / row["path"]).read_bytes()).hexdigest()


def test_a_replaced_file_has_its_new_hash(tmp_path: Path) -> None:
    data = tiny.make_clips(tmp_path / "clips", 2)
    clips = load_clips(DataConfig(corpus=str(data)), quiet=True)[0]
    parts = {"train": clips}
    write_heard(tmp_path, parts, quiet=True)
    before = [row["sha256"] for row in read_jsonl(tmp_path / "heard.jsonl")]
    old, other = clips[0].path, tmp_path / "other.wav"
    content = bytearray(old.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    about = old.stat()
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))  # as `cp -p` keeps it
    other.replace(old)
    write_heard(tmp_path, parts, keep=True, quiet=True)
    after = [row["sha256"] for row in read_jsonl(tmp_path / "heard.jsonl")]
    assert after == [sha256(clip.path) for clip in clips]
    assert (after[0] != before[0], after[1:]) == (True, before[1:])


def test_a_refused_run_leaves_no_trace(data: Path, tmp_path: Path) -> None:
    settings = replace(tiny.config(data), data=DataConfig(corpus=str(tmp_path / "nowhere")))
    with pytest.raises(EnhanceError, match="nowhere"):
        fit(settings, Enhancement(settings.loss), tmp_path / "runs" / "r", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_validation_measures_the_average(straight: tuple[RunConfig, Path]) -> None:
    from enhance.data.mixing.mixer import Mixer
    from enhance.measure.metrics import si_sdr
    from enhance.training.validation import SEED

    settings, run = straight
    stores = tiny.heard(settings).held_back()
    mixer = Mixer(*stores, replace(settings.mixing, snr=(0.0, 0.0)), SEED, settings.data.balance)
    model, info = load_model(run)
    scores = []
    for index in range(2):
        mixture = mixer(0, index)
        with torch.no_grad():
            estimate = model.enhance(torch.from_numpy(mixture.noisy)[None])[0].numpy()
        scores.append(si_sdr(mixture.clean, estimate))
    # The training metric floors the ratio at -60 dB, which changes ordinary values below 1e-4.
    assert sum(scores) / 2 == pytest.approx(info.score["si_sdr"], abs=1e-3)
    # Its batch norms know its own activations on the mixtures of the steps behind the validation.
    average = Ema(model.train(), 0.5)
    mixed = batches(tiny.heard(settings).mixer, 4, 30, info.score["step"])
    average.settle(model, WaveformModel.enhance, (batch["noisy"] for batch in islice(mixed, 16)))
    for own, kept in zip(average.model.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(own, kept)


@pytest.mark.usefixtures("soon_settled")
@pytest.mark.parametrize("stop_step", [1, 6])
def test_interrupted_and_resumed(data: Path, tmp_path: Path, stop_step: int) -> None:
    settings = tiny.config(data, steps=9, validate_every=4, log_every=4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    handler = signal.getsignal(signal.SIGINT)
    seed_everything(1)
    fit(settings, tiny.Sums(settings.loss), whole, quiet=True)
    seed_everything(1)
    first = fit(settings, tiny.Sums(settings.loss, stop_step=stop_step), broken, quiet=True)
    assert (first["stopped"], first["step"]) == ("SIGINT", stop_step)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (broken / "model.safetensors").is_file()
    seed_everything(99)  # nothing may hang on the state that the process happens to have
    torch.rand(5)
    second = fit(settings, tiny.Sums(settings.loss), broken, resume=True, quiet=True)
    assert second["step"] == 9
    tiny.same(whole, broken)
    assert [row["type"] for row in read_jsonl(broken / "timing.jsonl")].count("resume") == 1


@pytest.mark.usefixtures("soon_settled")
@pytest.mark.parametrize(("keep", "step"), [("best", 2), ("last", 6)])
def test_kept_are_the_best_or_the_last(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, step: int
) -> None:
    settings = tiny.config(data, steps=6, validate_every=2, keep=keep)
    scores = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(
        Validation,
        "measure",
        lambda *_: {"si_sdr": next(scores), "si_sdr_gain": 0, "pesq_wb": None},
    )
    fit(settings, Enhancement(settings.loss), tmp_path, quiet=True)
    score = read_info(tmp_path).score
    assert (score["step"], score["si_sdr"]) == ((2, 3.0) if step == 2 else (6, 2.0))
    weights, _ = load_tensors(tmp_path / "trainer.safetensors", "enhance-trainer-1")
    kept = load_model(tmp_path)[0].state_dict()
    told = [row["best"] for row in tiny.rows(tmp_path, "validation")]
    assert told == [keep == "best", False, False]
    last = all(torch.equal(kept[n], weights[f"average.{n}"]) for n in kept)
    assert last == (keep == "last")


def test_killed_and_resumed(straight: tuple[RunConfig, Path], tmp_path: Path) -> None:
    settings, run = straight
    killed = tmp_path / "killed"
    step = int.from_bytes(os.urandom(2)) % 10 + 1
    process = tiny.command(tiny.on_workers(settings, 1), killed)
    try:
        history = killed / "history.jsonl"
        while not (history.is_file() and len(tiny.rows(killed, "train")) >= step):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    before = len(tiny.rows(killed, "train"))
    print("killed after step", before)
    with (killed / "timing.jsonl").open("a") as file:
        file.write('{"type": "tr')  # as where the machine went down
    fit(settings, Enhancement(settings.loss), killed, resume=True, quiet=True)
    tiny.same(run, killed)
    assert read_jsonl(killed / "timing.jsonl")[-1]["type"] == "stop"


def test_unfinished_line_is_cut(straight: tuple[RunConfig, Path], tmp_path: Path) -> None:
    from enhance.training.engine.record import cut

    lines = (straight[1] / "history.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"".join(lines) + b'{"type": "train", "st')
    cut(path, 5)
    assert path.read_bytes() == b"".join(lines[:6])  # five of training, one of validation
    path.write_bytes(lines[0] + b"nonsense\n" + lines[1])
    with pytest.raises(EnhanceError, match="line 2: not JSON"):
        cut(path, 5)


def test_two_processes_equal_one(data: Path, tmp_path: Path) -> None:
    # Muon may orthogonalise in bfloat16, which makes the last bits of a sum the first of an update.
    settings = tiny.config(data, steps=4, validate_every=4, learning_rate=1e-3, optimizer="adamw")
    one, two = tmp_path / "one", tmp_path / "two"
    process = tiny.command(settings, two, "--devices", "2")
    fit(settings, Enhancement(settings.loss), one, quiet=True)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count("validation SI-SDR") == 1, output
    assert "Warning" not in output, output
    ours, theirs = tiny.rows(one, "train"), tiny.rows(two, "train")
    assert len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        # Sums of float32 in another order; half batches apart would differ in the second digit.
        assert b["losses"] == pytest.approx(a["losses"], rel=1e-5)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
    a, _ = load_tensors(one / "trainer.safetensors", "enhance-trainer-1")
    b, _ = load_tensors(two / "trainer.safetensors", "enhance-trainer-1")
    assert list(a) == list(b)
    for name in a:
        # Adam divides by the gradient's own size: what is rounding there may move a weight by a
        # part of the learning rate. Unequal batch statistics move it by all of it.
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.usefixtures("soon_settled")
def test_not_finite(data: Path, tmp_path: Path) -> None:
    settings = tiny.config(data, validate_every=0, checkpoint_every=2)
    run = tmp_path / "run"
    with pytest.raises(EnhanceError, match=r"step 4: .*own nan.*seed 0, epoch 0, index 13") as e:
        fit(settings, tiny.Sums(settings.loss, bad_step=1), run, quiet=True)
    record = json.loads((run / "bad_batch.json").read_text())
    assert record["step"] == 4
    assert [row["index"] for row in record["clips"]] == [12, 13, 14, 15]
    assert [row["bad"] for row in record["clips"]] == [False, True, False, False]
    assert record["clips"][1]["files"][0] in str(e.value)
    tensors, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    assert header["step"] == 2
    assert all(t.isfinite().all() for t in tensors.values())


def test_refusals(straight: tuple[RunConfig, Path], data: Path, tmp_path: Path) -> None:
    settings, run = straight
    objective = Enhancement(settings.loss)
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    with pytest.raises(EnhanceError, match="holds a run already"):
        fit(settings, objective, run, quiet=True)
    with pytest.raises(EnhanceError, match="no run to resume"):
        fit(settings, objective, tmp_path / "nothing", resume=True, quiet=True)
    assert not (tmp_path / "nothing").exists()
    other = replace(settings, seed=5, training=replace(settings.training, batch_size=6))
    with pytest.raises(EnhanceError, match=r"seed was 0, is 5, training.batch_size was 4, is 6"):
        fit(other, objective, run, resume=True, quiet=True)
    with pytest.raises(EnhanceError, match="mode was 'base', is 'sums'"):
        fit(settings, named(settings, "sums"), run, resume=True, quiet=True)
    with pytest.raises(EnhanceError, match=r"has used its budget \(12 steps"):
        fit(settings, objective, run, resume=True, quiet=True)
    assert before == {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    nothing_held = replace(settings, data=replace(settings.data, held_back=0.0))
    with pytest.raises(EnhanceError, match="nothing is held back"):
        fit(nothing_held, objective, tmp_path / "held", quiet=True)


def named(settings: RunConfig, mode: str) -> Objective:
    objective = Enhancement(settings.loss)
    objective.describe = lambda: {"mode": mode}  # type: ignore[method-assign]
    return objective


@pytest.mark.usefixtures("soon_settled")
def test_longer_budget(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny.config(data, steps=2, validate_every=0)
    run = tmp_path / "run"
    fit(settings, Enhancement(settings.loss), run, quiet=True)
    longer = replace(settings, training=replace(settings.training, steps=3))
    assert fit(longer, Enhancement(settings.loss), run, resume=True)["step"] == 3
    assert "training.steps was 2, is 3" in capsys.readouterr().err


@pytest.mark.usefixtures("soon_settled")
def test_changed_data(data: Path, tmp_path: Path) -> None:
    clips = tiny.make_clips(tmp_path / "clips")
    settings = tiny.config(clips, steps=2, validate_every=0)
    run = tmp_path / "run"
    moved = Path(shutil.copytree(clips, tmp_path / "elsewhere"))
    other = moved / "noise" / "0.wav"  # of the same name and length
    other.write_bytes(other.read_bytes()[:-1] + b"!")
    fit(settings, Enhancement(settings.loss), run, quiet=True)
    longer = tiny.config(moved, steps=3, validate_every=0)
    assert fit(longer, Enhancement(settings.loss), run, resume=True, quiet=True)["step"] == 3
    heard = {row["path"]: row["sha256"] for row in read_jsonl(run / "heard.jsonl")}
    assert heard["noise/0.wav"] == sha256(other)
    for path in sorted((moved / "speech").iterdir())[:3]:
        path.rename(path.with_stem(path.stem + "-other"))
    longer = tiny.config(moved, steps=4, validate_every=0)
    with pytest.raises(EnhanceError, match="training files are others"):
        fit(longer, Enhancement(settings.loss), run, resume=True, quiet=True)


def test_minutes(data: Path, tmp_path: Path) -> None:
    settings = tiny.config(data, steps=100000, minutes=0.02, validate_every=0)
    summary = fit(settings, Enhancement(settings.loss), tmp_path / "run", quiet=True)
    assert summary["stopped"] == "finished"
    assert summary["step"] < 100000
    assert 1.2 <= summary["seconds"] < 10
    last = tiny.rows(tmp_path / "run", "train")[-1]
    assert last["used"] == 1.0


def test_init(straight: tuple[RunConfig, Path], tmp_path: Path) -> None:
    settings, run = straight
    from enhance.network.checkpoint import load_model

    still = replace(
        settings,
        training=replace(
            settings.training, steps=1, learning_rate=1e-12, matrix_rate=1e-12, validate_every=0
        ),
    )
    fit(still, Enhancement(settings.loss), tmp_path / "run", init=run, quiet=True)
    start, _ = load_model(run)
    end, info = load_model(tmp_path / "run")
    digest = sha256(run / "model.safetensors")
    assert info.training["init"] == {"checkpoint": run.name, "sha256": digest}
    longer = replace(still, training=replace(still.training, steps=2))
    fit(longer, Enhancement(settings.loss), tmp_path / "run", resume=True, quiet=True)
    assert load_model(tmp_path / "run")[1].training["init"]["sha256"] == digest
    for (name, a), b in zip(start.named_parameters(), end.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    gcrn = replace(settings.model.gcrn, hidden=20)
    wider = replace(settings, model=replace(settings.model, gcrn=gcrn))
    with pytest.raises(EnhanceError, match=r"model.gcrn.hidden is 16 there, 20 here"):
        fit(wider, Enhancement(settings.loss), tmp_path / "wider", init=run, quiet=True)
    assert not (tmp_path / "wider").exists()


def test_bfloat16(data: Path, tmp_path: Path) -> None:
    from enhance.network.checkpoint import load_model

    settings = tiny.config(data, steps=3, validate_every=0, precision="bf16")
    run = tmp_path / "run"
    fit(settings, Enhancement(settings.loss), run, quiet=True)
    exact = replace(settings, training=replace(settings.training, precision="fp32"))
    fit(exact, Enhancement(settings.loss), tmp_path / "exact", quiet=True)
    a, b = (tiny.rows(p, "train")[0]["loss"] for p in (run, tmp_path / "exact"))
    # bfloat16 keeps 8 bits: the losses differ, by no more than that precision explains.
    assert a != b
    kept = (load_model(place)[1].training["precision"] for place in (run, tmp_path / "exact"))
    assert list(kept) == ["bf16", "fp32"]
    assert a == pytest.approx(b, rel=0.02)
    tensors, _ = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    assert all(t.dtype != torch.bfloat16 for t in tensors.values())


def test_auto_precision_is_what_the_processor_multiplies_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has, expected in (
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_f": True}, "fp32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert resolve("auto", "cpu") == expected
    assert resolve("fp32", "cpu") == "fp32"


def test_unknown_strategy(data: Path, tmp_path: Path) -> None:
    settings = tiny.config(data)
    with pytest.raises(EnhanceError, match="strategy 'fsdp': none of auto, ddp"):
        fit(
            settings,
            Enhancement(settings.loss),
            tmp_path / "run",
            hardware=Hardware(strategy="fsdp"),
            quiet=True,
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("ema_decay", 1.0), ("final_rate", 2.0), ("minutes", -1), ("threads", 1025)],
)
def test_config_refuses(field: str, value: float) -> None:
    with pytest.raises(EnhanceError, match=f"TrainingConfig: {field}"):
        TrainingConfig(**{field: value})
