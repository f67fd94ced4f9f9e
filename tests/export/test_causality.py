"""Look-ahead of whole signals: exact for the model, and found in networks that have some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_export import TINY, Exported, make_model
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.config import ModelConfig
from enhance.errors import EnhanceError
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS, StftConfig
from export import stream as command
from export.causality import look_ahead
from export.certificate import Bounds, judge
from export.stream import export_model

GENEROUS = Bounds(stream_error=9.0, si_sdr_db=9.0, pesq=9.0, snr_db=-99.0)


class Around(nn.Module):
    """A network with something that sees the future behind it."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.change = change

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        return self.network.initial_state(batch)

    def forward(self, spec: Tensor, state: Any, extra: Any) -> tuple[Tensor, Any]:
        out, state = self.network(spec, state, extra)
        return self.change(out), state


def one_frame_early(x: Tensor) -> Tensor:
    return F.pad(x[:, :, 1:], (0, 0, 0, 1))


def kernel(x: Tensor) -> Tensor:
    """Frames t to t + 2."""
    return x + 1e-3 * F.pad(x, (0, 0, 0, 2))[:, :, 2:]


def every_other_frame(x: Tensor) -> Tensor:
    """Even frames hear the odd ones after them, as after pooling by two."""
    odd = (torch.arange(x.shape[2]) // 2 * 2 + 1).clamp(max=x.shape[2] - 1)
    return x + 1e-3 * x[:, :, odd]


def far(x: Tensor) -> Tensor:
    """40 frames on, longer than the short signals."""
    return x + 1e-3 * F.pad(x, (0, 0, 0, 40))[:, :, 40:]


def mean_normalised(x: Tensor) -> Tensor:
    return x - 1e-3 * x.mean(2, keepdim=True)


def seeing(change: Callable[[Tensor], Tensor]) -> WaveformModel:
    model = make_model()
    model.network = Around(model.network, change)
    return model


@pytest.mark.parametrize("framing", [*FRAMINGS.values(), StftConfig(8000, 128, 128, 128)])
def test_a_causal_model_looks_one_window_ahead(framing: StftConfig) -> None:
    found = look_ahead(make_model(ModelConfig(framing, TINY.gcrn)))
    # The window's first sample weighs nothing where frames overlap, and hides one sample.
    zeros = 1 if framing.overlap else 0
    assert found["certain_zeros"] == zeros
    assert found["measured_samples"] == framing.window_length - zeros
    # Beyond the hop that a stream waits for, it is the latency of the framing.
    assert found["measured_samples"] + zeros - framing.hop_length == framing.latency_samples
    assert found["algorithmic_samples"] == framing.window_length
    assert (found["beyond_framing_samples"], found["unchanged"]) == (0, 0)
    assert found["tried"]["samples_within_a_hop"] == framing.hop_length
    assert found["tried"]["positions"] >= framing.hop_length + 2


@pytest.mark.parametrize(
    ("change", "beyond"),
    [
        (one_frame_early, 320),
        (kernel, 2 * 320),
        (every_other_frame, 320),
        (far, 40 * 320),
        (mean_normalised, None),
    ],
)
def test_what_sees_the_future_is_found_and_refused(
    change: Callable[[Tensor], Tensor], beyond: int | None, exported: Exported
) -> None:
    record = json.loads(json.dumps(exported.artefacts[1].certificate))
    judge(record, GENEROUS, "a.onnx", False)
    record["look_ahead"] = look_ahead(seeing(change))
    found = record["look_ahead"]["beyond_framing_samples"]
    # A statistic over the clip reaches from its end to its beginning.
    assert found == beyond if beyond is not None else found > 1.9 * 16000 - 4 * 320
    with pytest.raises(EnhanceError, match=f"looks {found} samples further ahead than its frame"):
        judge(record, GENEROUS, "a.onnx", False)


def test_some_samples_between_hops_are_found() -> None:
    class Early(WaveformModel):
        """Its output depends on five samples that its frame does not hold."""

        def enhance(self, audio: Tensor) -> Tensor:
            return super().enhance(audio) + 1e-4 * F.pad(audio, (0, 404))[:, 404:]

    model = Early(TINY).eval()
    found = look_ahead(model)
    assert found["measured_samples"] == 405
    assert found["beyond_framing_samples"] == 404 - 80 + 1


def test_a_model_that_hears_nothing_proves_nothing(exported: Exported) -> None:
    record = json.loads(json.dumps(exported.artefacts[0].certificate))
    record["look_ahead"] = look_ahead(seeing(torch.zeros_like))
    assert record["look_ahead"]["measured_samples"] == 0
    with pytest.raises(EnhanceError, match="look-ahead is not shown"):
        judge(record, GENEROUS, "a.onnx", False)


def test_a_model_that_looks_ahead_is_not_exported(
    exported: Exported, checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(command, "step_graph", lambda model, metadata: exported.graphs[0])
    load = command.load_model
    monkeypatch.setattr(
        command, "load_model", lambda path: (seeing(mean_normalised), load(path)[1])
    )
    with pytest.raises(EnhanceError, match="refused, it looks"):
        export_model(checkpoint, tmp_path / "a.onnx", clips=pairs, bounds=GENEROUS, quiet=True)
    assert not list(tmp_path.iterdir())


def test_the_certificate_says_what_was_tried(exported: Exported) -> None:
    for artefact in exported.artefacts:
        ahead = artefact.certificate["look_ahead"]
        assert ahead["measured_samples"] == 399
        assert ahead["tried"]["signal_samples"] == [16 * 320, 100 * 320]
        assert "whole signals" in ahead["tried"]["model"]
