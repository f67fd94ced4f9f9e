"""A file for sherpa-onnx, whose runtimes are Swift, Kotlin, Java, C#, Dart, Go and more.

Its loader of GTCRN (`offline-speech-denoiser-gtcrn-model.cc`) takes any network from a spectrum to
a spectrum: ``mix`` (1, F, 1, 2) and three caches in, ``enh`` and the caches out, known by their
order; framing and shapes stand in the metadata. The transforms are its own: an unscaled DFT under
the root of a periodic Hann window, which is ours where windows overlap by half (`enhance.stft`).
All states of the network stand one behind the other in ``inter_cache``; the two caches that are not
needed hold one number. What comes out is what our stream gives where a recording begins with
silence: it mirrors the beginning, a stream has heard nothing before it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from enhance.device.engine import open_session
from enhance.errors import EnhanceError
from enhance.files import temporary_folder
from enhance.network.checkpoint import load_model
from enhance.network.waveform_model import WaveformModel
from enhance.parallel import torch_threads
from enhance.stft import StftConfig
from export import certificate as proof
from export.certificate import Bounds, Clip, Streams
from export.graph.quantize import FLOAT_SHARES, quantize
from export.graph.rewrite import for_single_frames
from export.graph.step import save, tidy, traced
from export.metadata import describe
from export.stream import Artefact, identified, read_streamable, refuse_places, with_clips, write

SUFFIX = ".sherpa.onnx"
_LEAST_DB = 100.0
"""fp32: energy of torch's output over that of the difference."""
_CACHES = ("conv_cache", "tra_cache", "inter_cache")


class SpectrumStep(nn.Module):
    """The network on one frame, with sherpa-onnx's inputs and outputs."""

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        self.network = for_single_frames(model).network
        self.shapes = {name: value.shape for name, value in self.network.initial_state(1).items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]

    def forward(
        self, mix: Tensor, conv_cache: Tensor, tra_cache: Tensor, inter_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shape: (1, F, 1, 2), (1,), (1,), (S,) -> the same"""
        parts = inter_cache.split(self.sizes)
        state = {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        out, new = self.network(mix.squeeze(2).transpose(1, 2), state)  # (1, 2, F)
        last = torch.cat([new[name].flatten() for name in self.shapes])
        return out.transpose(1, 2).unsqueeze(2), conv_cache.clone(), tra_cache.clone(), last


def check_framing(config: StftConfig) -> None:
    """Refuse a framing that sherpa-onnx does not have."""
    if config.window_length != 2 * config.hop_length or config.fft_size != config.window_length:
        raise EnhanceError(
            f"framing {config.window_length}/{config.hop_length}: cannot be exported for "
            "sherpa-onnx, whose window (the root of a Hann window) sums to one only where windows "
            "overlap by half; train with framing 25-12.5, 20-10 or 32-16"
        )


def sherpa_graph(model: WaveformModel, metadata: Mapping[str, str]) -> ModelProto:
    """The graph of a model for sherpa-onnx, in fp32, refused as by `check_framing`."""
    config = model.config.stft
    check_framing(config)
    step = SpectrumStep(model).eval()
    caches = dict(zip(_CACHES, (torch.zeros(n) for n in (1, 1, sum(step.sizes))), strict=True))
    inputs = {"mix": torch.zeros(1, config.bins, 1, 2), **caches}
    shapes = {f"{name}_shape": str(len(value)) for name, value in caches.items()}
    facts = {
        **{key: metadata[key] for key in ("producer", "licence", "quantization", "training")},
        "model_type": "gtcrn",
        "version": "1",
        "comment": "gcrn, by enhance",
        "sample_rate": str(config.sample_rate),
        "n_fft": str(config.fft_size),
        "hop_length": str(config.hop_length),
        "window_length": str(config.window_length),
        "window_type": "hann_sqrt",
        **shapes,
    }
    return tidy(traced(step, inputs, ["enh", *(f"{name}_out" for name in _CACHES)]), facts)


def export_sherpa(
    checkpoint: Path | str,
    out: Path | str,
    *,
    int8: bool = False,
    clips: Path | str | None = None,
    clip_count: int = 4,
    bounds: Bounds | None = None,
    licence: str = "",
    force: bool = False,
    quiet: bool = False,
) -> list[Artefact]:
    """Export a checkpoint for sherpa-onnx, each file with a certificate.

    ``out`` is the fp32 file, ``NAME.onnx``; with ``int8``, ``NAME.int8.onnx`` stands beside it. The
    other arguments are `export.stream.export_model`'s; of the bounds, ``snr_db`` counts. An
    `EnhanceError` tells that the checkpoint or the set cannot be used, a file exists, or the
    network differs from torch's: nothing of such a file is written.
    """
    bounds = bounds or Bounds()
    out = Path(out)
    paths = {"none": out} | ({"int8": out.with_suffix(".int8.onnx")} if int8 else {})
    refuse_places(
        checkpoint,
        list(paths.values()),
        force,
        lambda place: check_framing(read_streamable(place).config.stft),
    )
    subject = with_clips(load_model(checkpoint), clips, clip_count, quiet)
    model, pairs = subject.model, subject.clips
    written = []
    with temporary_folder() as folder, torch_threads(1):
        fp32 = sherpa_graph(model, describe(model, subject.info, licence))
        reference = proof.offline(model, pairs)
        for mode, path in paths.items():
            least = _LEAST_DB if mode == "none" else bounds.snr_db
            for share in FLOAT_SHARES if mode != "none" else (1.0,):
                graph = fp32 if mode == "none" else quantize(fp32, mode, share)
                trial = save(graph, folder / path.name)
                snr = proof.snr_db(reference, through(trial, model, pairs), pairs)
                worst = math.inf if snr["worst"] is None else snr["worst"]
                if worst >= least:
                    break
            else:
                raise EnhanceError(
                    f"{path.name}: refused, it is {worst:.1f} dB from torch on the worst clip "
                    f"(bound {least:g} dB); it was not written"
                )
            record: dict[str, Any] = {
                "file": path.name,
                "kind": "sherpa-onnx gtcrn",
                **identified(trial),
                "quantization": mode,
                **({} if mode == "none" else {"float_share": share}),
                "measured_on": subject.measured_on(),
                "equality": {"snr_db": snr},
                "bounds": {"snr_db": least},
                "versions": proof.made_with(),
            }
            written.append(write(graph, path, record))
            if not quiet:
                far = "equal to" if worst == math.inf else f"{worst:.1f} dB from"
                print(f"{path.name}: {record['bytes'] / 1e6:.2f} MB, {far} torch", file=sys.stderr)
    return written


def through(path: Path, model: WaveformModel, clips: Sequence[Clip]) -> Streams:
    """Clips through a file, between the model's own transforms."""
    session = open_session(path, 1)
    names = [node.name for node in session.get_inputs()]
    late = model.config.stft.latency_samples
    waves = []
    for clip in clips:
        caches = [np.zeros(node.shape, np.float32) for node in session.get_inputs()[1:]]
        with torch.no_grad():
            noisy = model.stft.analyze(model.pad(torch.from_numpy(clip.noisy)[None]))[0]
            frames = []
            for frame in noisy.permute(2, 0, 3, 1)[..., None, :].numpy():  # (1, F, 1, 2) each
                given = dict(zip(names, [np.ascontiguousarray(frame), *caches], strict=True))
                out, *caches = session.run(None, given)
                frames.append(torch.from_numpy(out).permute(0, 3, 2, 1))  # (1, 2, 1, F)
            wave = model.stft.synthesize(torch.cat(frames, 2))[0][0, late:]
        waves.append(wave[: len(clip.noisy)].numpy())
    return Streams(waves)
