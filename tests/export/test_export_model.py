"""Files, certificates and refusals of the whole command."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_export import TINY, Exported, voice

from enhance.cli import app as cli
from enhance.cli import info
from enhance.config import ModelConfig
from enhance.config.settings import parse
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.files import sha256
from enhance.measure.metrics import si_sdr
from enhance.network.checkpoint import CheckpointInfo, load_model, save_model
from enhance.network.waveform_model import WaveformModel
from enhance.parallel import torch_threads
from export import stream as command
from export.certificate import Bounds, Clip, Streams, judge, max_error, snr_db
from export.metadata import describe
from export.offline import export_offline
from export.stream import export_model, summary

GENEROUS = Bounds(si_sdr_db=2.0, pesq=1.0, snr_db=20.0)


def test_files_and_sizes(exported: Exported) -> None:
    names = [path.name for path in exported.paths]
    assert names == ["tiny.onnx", "tiny.int8.onnx", "tiny.int8w.onnx"]
    beside = sorted(p.name for p in exported.paths[0].parent.iterdir())
    certificates = [name.replace(".onnx", ".certificate.json") for name in names]
    assert beside == sorted([*names, *certificates])
    for artefact in exported.artefacts:
        record = json.loads(artefact.certificate_path.read_text("utf-8"))
        assert record == json.loads(json.dumps(artefact.certificate))
        assert record["sha256"] == sha256(artefact.path)
        assert record["bytes"] == artefact.path.stat().st_size


@pytest.mark.usefixtures("no_tracing")
def test_what_the_checkpoint_heard_goes_with_the_file(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run)
    (run / "heard.jsonl").write_text('{"path": "/some/where/a.wav", "sha256": "12"}\n')
    export_model(run, tmp_path / "out" / "m.onnx", clips=pairs, quiet=True)
    heard = (tmp_path / "out" / "m.heard.jsonl").read_text("utf-8")
    assert json.loads(heard) == {"path": "a.wav", "sha256": "12"}
    export_model(run, run / "m.onnx", clips=pairs, quiet=True)
    assert not (run / "m.heard.jsonl").exists()
    # Not that of a model whose file was replaced.
    export_model(checkpoint, tmp_path / "out" / "m.onnx", clips=pairs, force=True, quiet=True)
    assert not (tmp_path / "out" / "m.heard.jsonl").exists()


@pytest.mark.usefixtures("no_tracing")
def test_what_was_heard_stands_beside_a_file_whatever_ends_the_rest(
    checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run)
    (run / "heard.jsonl").write_text('{"path": "a.wav", "sha256": "12"}\n')

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "quantize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(run, tmp_path / "m.onnx", int8=True, clips=pairs, quiet=True)
    assert (tmp_path / "m.onnx").exists() and (tmp_path / "m.heard.jsonl").exists()


def test_an_unwritable_place_is_refused_at_once(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnhanceError, match=r"m\.onnx: cannot be written"):
        # No such set: the place is refused before the set is opened.
        export_model(checkpoint, tmp_path / "file" / "m.onnx", clips=tmp_path / "none", quiet=True)
    with pytest.raises(EnhanceError, match="none"):
        export_model(checkpoint, tmp_path / "m.onnx", clips=tmp_path / "none", quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_metadata_tells_the_config(exported: Exported, model: WaveformModel) -> None:
    for path, mode in zip(exported.paths, ("none", "int8", "int8-weights"), strict=True):
        m = Enhancer(path).metadata
        assert m["quantization"] == mode
        assert m["model_type"] == "gcrn"
        assert m["producer"].startswith("enhance ")
        numbers = ("sample_rate", "hop_length", "window_length", "fft_size", "latency_samples")
        assert [int(m[key]) for key in numbers] == [16000, 320, 400, 400, 80]
        assert int(m["algorithmic_latency_samples"]) == 400
        assert int(m["parameters"]) == sum(p.numel() for p in model.parameters())
        assert int(m["macs_per_second"]) % 50 == 0
        assert json.loads(m["training"]) == {"mode": "base", "seed": 5, "score": {"step": 7}}
        assert parse(ModelConfig, json.loads(m["config"]), "metadata") == TINY
        assert m["licence"] == "unknown"  # nobody named one


def test_a_licence_is_the_exporters_or_the_records(checkpoint: Path) -> None:
    network, info = load_model(checkpoint)
    recorded = replace(info, training={**info.training, "licence": "CC-BY-4.0"})
    assert describe(network, recorded)["licence"] == "CC-BY-4.0"
    assert describe(network, recorded, "MIT")["licence"] == "MIT"
    assert describe(network, info)["licence"] == "unknown"


def test_certificate_holds_what_was_measured(exported: Exported, pairs: Path) -> None:
    fp32, int8, weights = (artefact.certificate for artefact in exported.artefacts)
    assert fp32["measured_on"]["clips"] == ["0", "1", "2"]
    assert fp32["measured_on"]["seconds"] == pytest.approx(10.5)
    assert fp32["measured_on"]["frames_carried_at_most"] >= 100
    assert fp32["measured_on"]["synthetic"] is False
    assert fp32["equality"]["onnx_fp32"]["max_abs_error"] < 1e-5
    assert "speed" not in fp32
    for record in (int8, weights):
        snr = record["equality"]["onnx_quantized"]["snr_db"]
        assert snr["mean"] > snr["worst"] > 20
        assert snr["worst_clip"] in ("0", "1", "2")
        assert record["speed"]["ratio"] > 0
        assert record["metrics"]["onnx_quantized"]["si_sdr"]["clips"] == 3
    # One figure against an independent computation.
    values = []
    for i in range(3):
        clean, noisy = (soundfile.read(pairs / p / f"{i}.flac", dtype="float32")[0]
                        for p in ("clean", "noisy"))  # fmt: skip
        values.append(si_sdr(clean, Enhancer(exported.paths[1])(noisy, 16000)))
    assert int8["metrics"]["onnx_quantized"]["si_sdr"]["mean"] == pytest.approx(
        np.mean(values), abs=1e-4
    )


def clips_of(waves: list[np.ndarray]) -> list[Clip]:
    return [Clip(str(i), wave, wave) for i, wave in enumerate(waves)]


def test_snr_by_hand() -> None:
    x = voice(0.5, 100)
    waves, others = [x, x, x], [x * 1.01, x * 1.1, x]
    found = snr_db(Streams(waves), Streams(others), clips_of(waves))
    assert found["worst"] == pytest.approx(20.0, abs=1e-3)
    assert found["mean"] == pytest.approx(30.0, abs=1e-3)
    assert (found["worst_clip"], found["equal_clips"]) == ("1", 1)
    same = snr_db(Streams([x]), Streams([x]), clips_of([x]))
    assert same == {"worst": None, "worst_clip": None, "mean": None, "equal_clips": 1}
    with pytest.raises(EnhanceError, match="silent"):
        snr_db(Streams([0 * x]), Streams([x]), clips_of([x]))


def test_what_is_added_to_silence_counts() -> None:
    x = voice(0.5, 100)
    hiss = np.full_like(x, 1e-6)  # -120 dBFS, 20 dB below the -100 that silence counts as
    found = snr_db(Streams([x, 0 * x]), Streams([x, hiss]), clips_of([x, x]))
    assert (found["worst_clip"], found["worst"]) == ("1", pytest.approx(20.0, abs=1e-3))


def test_what_is_no_number_is_as_far_as_can_be(exported: Exported) -> None:
    x = voice(0.5, 100)
    odd = x.copy()
    odd[7] = np.nan
    for waves in ([x, odd], [odd, x]):
        found = snr_db(Streams([x, x]), Streams(waves), clips_of([x, x]))
        assert (found["worst"], found["equal_clips"]) == (-np.inf, 1)
        record = json.loads(json.dumps(exported.artefacts[0].certificate))
        record["equality"]["onnx_fp32"]["max_abs_error"] = max_error(
            Streams([x, x]), Streams(waves)
        )
        with pytest.raises(EnhanceError, match="onnx_fp32 differs from torch by nan"):
            judge(record, GENEROUS, "a.onnx", False)


@pytest.fixture
def no_tracing(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that was traced before, and how far its model looks ahead: found once."""
    ahead = exported.artefacts[0].certificate["look_ahead"]
    monkeypatch.setattr(command, "step_graph", lambda model, metadata: exported.graphs[0])
    monkeypatch.setattr(command, "look_ahead", lambda model: dict(ahead))


@pytest.mark.parametrize(
    ("bounds", "figure"),
    [
        (replace(GENEROUS, snr_db=150.0), "SNR against fp32 is"),
        (replace(GENEROUS, size_ratio=0.01), "size is"),
        (replace(GENEROUS, si_sdr_db=0.0), "si_sdr differs"),
        (replace(GENEROUS, pesq=-1.0), "pesq_wb differs"),
        (replace(GENEROUS, stream_error=0.0), "torch_streaming differs"),
    ],
)
def test_each_bound_refuses(bounds: Bounds, figure: str, exported: Exported) -> None:
    record = exported.artefacts[1].certificate
    judge(record, GENEROUS, "a.int8.onnx", False)
    with pytest.raises(EnhanceError, match=figure):
        judge(record, bounds, "a.int8.onnx", False)


@pytest.mark.usefixtures("no_tracing")
def test_more_stays_in_float_where_the_bound_asks_for_it(
    checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "FLOAT_SHARES", (0.0, 0.5))

    def worst(bounds: Bounds) -> tuple[float, float, int]:
        made = export_model(
            checkpoint, tmp_path / "m.onnx", int8=True, clips=pairs, bounds=bounds, force=True,
            quiet=True,
        )[1].certificate  # fmt: skip
        left = len(made["operators"]["float_products"])
        return made["float_share"], made["equality"]["onnx_quantized"]["snr_db"]["worst"], left

    share, snr, left = worst(GENEROUS)
    assert share == 0.0
    again, better, more = worst(replace(GENEROUS, snr_db=snr + 1))
    assert again == 0.5 and better >= snr + 1 and more > left
    with pytest.raises(EnhanceError, match="SNR against fp32 is"):
        worst(replace(GENEROUS, snr_db=150.0))


def test_the_worst_clip_is_judged(exported: Exported) -> None:
    record = json.loads(json.dumps(exported.artefacts[1].certificate))
    record["equality"]["onnx_quantized"]["snr_db"] |= {"worst": 19.9, "mean": 60.0}
    with pytest.raises(EnhanceError, match=r"SNR against fp32 is 19\.9 dB on \d"):
        judge(record, GENEROUS, "a.int8.onnx", False)
    record["equality"]["onnx_quantized"]["snr_db"] |= {"worst": None, "equal_clips": 3}
    judge(record, GENEROUS, "a.int8.onnx", False)


def test_metric_refused_on_every_clip_refuses(exported: Exported) -> None:
    record = json.loads(json.dumps(exported.artefacts[1].certificate))
    record["metrics"]["onnx_quantized"]["pesq_wb"] = {"clips": 0, "refused": {"0": "silent"}}
    with pytest.raises(EnhanceError, match="on no clip"):
        judge(record, GENEROUS, "a.int8.onnx", False)


@pytest.mark.usefixtures("no_tracing")
def test_nothing_of_a_refused_int8_file_is_left(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    bounds = replace(GENEROUS, snr_db=150.0)
    with pytest.raises(EnhanceError, match="SNR against fp32 is"):
        export_model(
            checkpoint, tmp_path / "a.onnx", int8=True, clips=pairs, bounds=bounds, quiet=True
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.certificate.json", "a.onnx"]


@pytest.mark.usefixtures("no_tracing")
def test_hop_by_hop_work_takes_one_thread(
    checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = command.proof.streaming

    def streaming(*given: Any) -> Streams:
        seen.append(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(command.proof, "streaming", streaming)
    with torch_threads(2):
        export_model(checkpoint, tmp_path / "a.onnx", clips=pairs, quiet=True)
        seen.append(torch.get_num_threads())
    assert seen == [1, 2]


@pytest.mark.usefixtures("no_tracing")
def test_fp32_out_of_bounds_is_refused(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    bounds = replace(GENEROUS, stream_error=0.0)
    with pytest.raises(EnhanceError, match="differs from torch by"):
        export_model(
            checkpoint, tmp_path / "a.onnx", int8=True, clips=pairs, bounds=bounds, quiet=True
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_tracing")
def test_slower_is_refused_only_when_asked(
    checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {
        "ratio": 1.25,
        "processor": "a processor",
        "architecture": "x86_64",
        "instruction_sets": ["avx2"],
    }
    monkeypatch.setattr(command, "compare_speed", lambda *_: dict(slow))
    settings = {"int8": True, "clips": pairs, "bounds": GENEROUS, "force": True}
    export_model(checkpoint, tmp_path / "a.onnx", quiet=True, **settings)
    assert (tmp_path / "a.int8.onnx").is_file()
    with pytest.raises(EnhanceError, match=r"1\.25 of fp32"):
        export_model(checkpoint, tmp_path / "b.onnx", quiet=True, require_faster=True, **settings)
    assert not (tmp_path / "b.int8.onnx").exists()


def test_the_user_reads_size_fidelity_and_speed(exported: Exported) -> None:
    first, second, _ = (summary(artefact.certificate) for artefact in exported.artefacts)
    assert first.startswith("tiny.onnx: ")
    assert "streamed = torch to" in first
    for part in ("MB", "dB SNR against fp32", "SI-SDR", "PESQ", "of fp32's time ("):
        assert part in second


def test_bad_requests(checkpoint: Path, exported: Exported, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="exists already"):
        export_model(checkpoint, exported.paths[0], clips=pairs, quiet=True)
    with pytest.raises(EnhanceError, match=r"must end in \.onnx"):
        export_model(checkpoint, tmp_path / "a.bin", clips=pairs, quiet=True)
    with pytest.raises(EnhanceError, match="no such checkpoint"):
        export_model(tmp_path / "absent", tmp_path / "new" / "a.onnx", clips=pairs, quiet=True)
    with pytest.raises(EnhanceError, match="no such checkpoint"):
        export_offline(tmp_path / "absent", tmp_path / "new" / "a.onnx", clips=pairs, quiet=True)
    assert not list(tmp_path.iterdir())
    config = replace(TINY, gcrn=replace(TINY.gcrn, extra_features=3))
    save_model(tmp_path / "concat", WaveformModel(config), CheckpointInfo(config))
    with pytest.raises(EnhanceError, match="extra_features 3"):
        export_model(tmp_path / "concat", tmp_path / "a.onnx", clips=pairs, quiet=True)


def test_a_file_of_the_run_stands_for_the_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(checkpoint.iterdir())
    info.describe(str(checkpoint / "model.safetensors"))
    assert re.search(r"kind +checkpoint", capsys.readouterr().out)
    for offline in (False, True):
        # No such set: all before it went well.
        with pytest.raises(EnhanceError, match="no set"):
            cli.export(
                checkpoint / "model.safetensors",
                clips=tmp_path / "no set",
                onnx=not offline,
                offline=offline,
                quiet=True,
            )
        with pytest.raises(EnhanceError, match="default: is a model as it ships"):
            cli.export(Path("default"), onnx=not offline, offline=offline, quiet=True)
        other = tmp_path / "some.yaml"
        other.touch()
        with pytest.raises(EnhanceError, match="no such checkpoint folder"):
            cli.export(other, onnx=not offline, offline=offline, quiet=True)
    assert sorted(checkpoint.iterdir()) == before


def test_set_that_is_too_short(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    for part in ("clean", "noisy"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.flac").write_bytes((pairs / part / "0.flac").read_bytes())
    with pytest.raises(EnhanceError, match=r"holds 3\.5 s"):
        export_model(checkpoint, tmp_path / "a.onnx", clips=tmp_path, quiet=True)
