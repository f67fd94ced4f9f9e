"""A differentiable DNSMOS P.835: what listeners would say of an estimate, by a network.

The network of `enhance.measure.opinions` in torch, with the weights of the ``speechmos`` package
(MIT): log power of a learned transform (20 ms by 10 ms), seven 3 x 3 convolutions, the maximum
over time and frequency, three dense layers. What was trained by this judge must be judged by
others too.

Source: Reddy, Gopal, Cutler, "DNSMOS P.835", ICASSP 2022.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import torch
from torch import Tensor
from torch.nn import functional as F

from enhance.errors import EnhanceError, require
from enhance.measure.opinions import MAPS, SAMPLE_RATE

_FRAME = 320  # samples, hopped by half of it
_FLOOR = 1e-5
"""Power added to each bin, some 45 dB under speech at -26 dBFS. The logarithm is steepest where
nobody hears: at 1e-9 the gradients of twelve enhanced clips were 1.5 to 26 times as large, and
mostly of that. Their opinions were up to .16 lower with it."""

_POOLED = (3, 4, 5)
"""Convolutions whose output is halved in time and frequency."""


@lru_cache(maxsize=2)
@torch.inference_mode(False)  # kept for training, even if validation asks first
def _weights(device: torch.device) -> tuple[Tensor, list[list[Tensor]], list[list[Tensor]]]:
    """The transform (320, 2 x 161), and kernels and biases of convolutions and dense layers."""
    require("bench", "speechmos")
    require("export", "onnx")
    import onnx

    path = files("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
    found = {
        w.name.removeprefix("mos_estimator_logpow/"): onnx.numpy_helper.to_array(w)
        for w in onnx.load(str(path)).graph.initializer
    }

    def tensors(*names: str) -> list[Tensor]:
        return [torch.tensor(found[name], device=device) for name in names]

    parts = ("time2freq/stft-real/kernel:0", "time2freq/stft-imag/kernel:0")
    transform = torch.cat(tensors(*parts))
    convolutions = ["conv2d", *(f"conv2d_{i}" for i in range(1, 7))]
    variable = "ReadVariableOp/resource:0"
    return (
        transform[..., 0].T.contiguous(),
        [tensors(f"{name}/kernel:0", f"{name}/bias:0") for name in convolutions],
        [
            tensors(f"{name}/MatMul/{variable}", f"{name}/BiasAdd/{variable}")
            for name in ("dense", "dense_1", "dense_3")
        ],
    )


def opinion(
    wave: Tensor, sample_rate: int = SAMPLE_RATE, floor: float = _FLOOR, half: bool = False
) -> Tensor:
    """Opinions of speech, background and both, 1 to 5, of clips of one length.

    Waveforms are float32, full scale 1; the level counts, as it does for DNSMOS. Clips need 90 ms
    at least; longer ones than 9.01 s are heard as one, where DNSMOS takes a mean over segments.
    ``sample_rate`` must be 16000. ``floor`` is a power added to each bin; 0 is DNSMOS. ``half``
    convolves in bfloat16. An `EnhanceError` tells of another rate, or of packages missing.

    Shape: (B, N) -> (B, 3)
    """
    if sample_rate != SAMPLE_RATE:
        raise EnhanceError(
            f"loss.dnsmos at {sample_rate} Hz: DNSMOS is defined at {SAMPLE_RATE} Hz; set it to 0 "
            "or take another sample rate"
        )
    transform, convolutions, dense = _weights(wave.device)
    power = (wave.unfold(1, _FRAME, _FRAME // 2) @ transform).square()  # (B, T, 2 x 161)
    hidden = (power.unflatten(2, (2, -1)).sum(2) + floor).clamp_min(1e-12).log10()[:, None]
    hidden = hidden.contiguous(memory_format=torch.channels_last)
    with torch.autocast(wave.device.type, torch.bfloat16, enabled=half):
        for index, (kernel, bias) in enumerate(convolutions):
            hidden = F.conv2d(hidden, kernel, bias, padding=1).relu()
            if index in _POOLED:
                hidden = F.max_pool2d(hidden, 2)
    hidden = hidden.float().amax((2, 3))
    for kernel, bias in dense[:-1]:
        hidden = (hidden @ kernel + bias).relu()
    raw = hidden @ dense[-1][0] + dense[-1][1]
    a, b, c = torch.tensor([MAPS[f"dnsmos_{name}"] for name in ("sig", "bak", "ovrl")]).to(raw).T
    return (a * raw + b) * raw + c
