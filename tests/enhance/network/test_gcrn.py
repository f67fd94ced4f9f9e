"""The network: causality of every layer, one frame = many, arithmetic against torch's own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from enhance.config import MODELS, GcrnConfig, ModelConfig
from enhance.errors import EnhanceError
from enhance.network.dual_path import DualPath
from enhance.network.gated import GatedConv, GatedDeconv
from enhance.network.gcrn import Gcrn, GroupedRnn, RunningLevel, compress, macs_per_frame
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS, StftConfig
from enhance.training.losses.enhancement import si_sdr

TINY = GcrnConfig(channels=(4, 6, 8), hidden=20, groups=2)
DUAL = {
    f"{mixing}-{output}": {
        "bottleneck": "dual_path", "mixing": mixing, "output": output, "decoders": 1,
        "channels": (4, 6, 16), "hidden": 10,
    }
    for mixing in ("recurrent", "attention", "dense")
    for output in ("complex_mask", "magnitude_phase")
}  # fmt: skip
"""Networks of two paths."""
CELL = pytest.mark.parametrize("cell", ["lstm", "gru"])
DECODERS = pytest.mark.parametrize("decoders", [1, 2])


def settled(model: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """The model in eval mode, its batch norms holding the statistics of the inputs."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(*inputs)
    return model.eval()


def tiny_model(stft: StftConfig = FRAMINGS["25-20"], **fields: object) -> WaveformModel:
    torch.manual_seed(1)
    fields = {"channels": (4, 6, 8), "hidden": 20, "groups": 2, **fields}
    config = GcrnConfig(**fields)  # type: ignore[arg-type]
    model = WaveformModel(ModelConfig(stft, config))
    audio = torch.randn(2, 20 * stft.hop_length) * 0.1
    settled(model, audio)
    return model


def networks() -> list[dict[str, object]]:
    """Fields of the networks whose every layer must be causal and stream."""
    grouped = [
        {"cell": cell, "output": output, "decoders": decoders}
        for cell in ("lstm", "gru")
        for output in ("complex_mask", "complex_mapping")
        for decoders in (1, 2)
    ]
    more = ({"level_frames": 4}, {"kernel_frames": 2}, {"kernel_frames": 3, "level_frames": 5})
    return grouped + list(more) + [{**d, **more[i % 3]} for i, d in enumerate(DUAL.values())]


NETWORKS = pytest.mark.parametrize(
    "fields", networks(), ids=lambda fields: "-".join(str(v) for v in fields.values())
)


@NETWORKS
def test_the_future_changes_no_layer_output(fields: dict[str, object]) -> None:
    model = tiny_model(**fields)
    torch.manual_seed(2)
    audio = torch.randn(1, 13 * 320) * 0.1
    changed = audio.clone()
    changed[:, 7 * 320 :] += torch.randn(1, 6 * 320)
    seen: list[dict[str, torch.Tensor]] = []

    def watch(name: str, store: dict[str, torch.Tensor]):
        def hook(_module: nn.Module, _inputs: object, out: object) -> None:
            first = out[0] if isinstance(out, tuple) else out
            assert isinstance(first, torch.Tensor)
            store[name] = first.detach()

        return hook

    for wave in (audio, changed):
        store: dict[str, torch.Tensor] = {}
        handles = [
            m.register_forward_hook(watch(name, store))
            for name, m in model.named_modules()
            if not any(True for _ in m.children())
            or isinstance(m, (GroupedRnn, DualPath, GatedConv, GatedDeconv, RunningLevel))
        ]
        with torch.no_grad():
            store["output"] = model(wave)[0].unflatten(1, (13, 320))
        for handle in handles:
            handle.remove()
        seen.append(store)

    assert len(seen[0]) > 15
    for name, before in seen[0].items():
        after = seen[1][name]
        assert before.shape.count(13) == 1, name
        axis = before.shape.index(13)  # time, wherever a layer has it
        past = [slice(None)] * axis + [slice(0, 7)]
        future = [slice(None)] * axis + [slice(7, None)]
        assert torch.equal(before[tuple(past)], after[tuple(past)]), name
        assert not torch.equal(before[tuple(future)], after[tuple(future)]), name


@NETWORKS
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_streaming_in_odd_pieces_equals_offline(fields: dict[str, object], framing: str) -> None:
    model = tiny_model(FRAMINGS[framing], **fields)
    hop = FRAMINGS[framing].hop_length
    torch.manual_seed(3)
    audio = torch.randn(2, 40 * hop) * 0.1
    with torch.no_grad():
        whole, last = model(audio)
        for sizes in ([1], [1, 7, 3], [39, 1], [2, 1, 1, 5]):
            state, pieces, at = None, [], 0
            for frames in itertools.cycle(sizes):
                piece = audio[:, at * hop : (at + frames) * hop]
                if not piece.shape[1]:
                    break
                out, state = model(piece, state)
                pieces.append(out)
                at += frames
            assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5
            assert state is not None and state.keys() == last.keys()
            for name, value in state.items():
                assert (value - last[name]).abs().max() < 1e-5, name


def test_offline_enhancement_is_aligned_for_any_length() -> None:
    model = tiny_model()
    with torch.no_grad():
        long = model.enhance(torch.randn(1, 4000, generator=torch.Generator().manual_seed(4)))
        for samples in (1, 79, 80, 81, 319, 320, 321, 1234):
            audio = torch.randn(1, 4000, generator=torch.Generator().manual_seed(4))[:, :samples]
            out = model.enhance(audio)
            assert out.shape == (1, samples)
            settled_part = max(0, samples - 400)  # frames that hold no sample after the cut
            assert torch.allclose(out[:, :settled_part], long[:, :settled_part], atol=1e-6)


@DECODERS
def test_an_untrained_mask_lets_sound_through(decoders: Literal[1, 2]) -> None:
    torch.manual_seed(0)
    model = WaveformModel(ModelConfig(gcrn=GcrnConfig(decoders=decoders)))
    audio = torch.randn(2, 16000) * 0.1
    settled(model, model.pad(audio))
    with torch.no_grad():
        out = model.enhance(audio)
    assert (si_sdr(out, audio) > 3).all()


@DECODERS
def test_identity_mask_gives_the_input_back_aligned(decoders: int) -> None:
    model = tiny_model(decoders=decoders)
    # 2 tanh(x) = 1 for the real part and 0 for the imaginary one: bias of the last GLU.
    for decoder, values in zip(model.network.decoders, ((1.0, 0.0), (0.0,)), strict=False):
        conv = decoder[-1].conv
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
        with torch.no_grad():
            for i in range(2 // decoders):  # sigmoid(0) halves it
                conv.bias[i] = torch.atanh(torch.tensor(values[i] / 2)) * 2
    audio = torch.randn(1, 3333) * 0.1
    with torch.no_grad():
        assert torch.allclose(model.enhance(audio), audio, atol=1e-6)


def test_a_gated_convolution_is_torch_s_own_glu() -> None:
    torch.manual_seed(5)
    layer = GatedConv(3, 4)
    x = torch.randn(2, 3, 5, 12)
    expected = F.elu(layer.norm(F.glu(layer.conv(x), 1)))
    for form in (torch.contiguous_format, torch.channels_last):
        assert torch.allclose(layer(x.contiguous(memory_format=form)), expected, atol=1e-5)


@pytest.mark.parametrize("bins", [9, 10])
def test_a_deconvolution_gives_every_bin_back(bins: int) -> None:
    torch.manual_seed(5)
    layer = GatedDeconv(3, 2, bins, last=True)
    x, skip = torch.randn(2, 3, 5, 4).split((1, 2), 1)
    # By hand: input f reaches outputs 2f, 2f + 1 and 2f + 2, each by its own tap.
    expected = layer.conv.bias.view(1, 4, 1, 1).repeat(2, 1, 5, bins)
    for f in range(4):
        for tap in range(3):
            expected[..., 2 * f + tap] += torch.einsum(
                "bct,co->bot", torch.cat([x, skip], 1)[..., f], layer.conv.weight[:, :, 0, tap]
            )
    assert torch.allclose(layer(x, skip), F.glu(expected, 1), atol=1e-6)


def test_gates_and_skips_have_torch_s_gradients() -> None:
    torch.manual_seed(5)
    conv, deconv = GatedConv(4, 6), GatedDeconv(12, 3, 9, last=True)
    x = torch.randn(2, 4, 5, 9, requires_grad=True)
    skip = torch.randn(2, 6, 5, 4, requires_grad=True)
    deconv(conv(x), skip).square().sum().backward()
    got = [x.grad, skip.grad, conv.conv.weight.grad, deconv.conv.weight.grad]
    for leaf in (x, skip, conv.conv.weight, deconv.conv.weight):
        leaf.grad = None
    y = F.elu(conv.norm(F.glu(conv.conv(x), 1)))
    y = F.conv_transpose2d(
        torch.cat([y, skip], 1), deconv.conv.weight, deconv.conv.bias, stride=(1, 2)
    )
    F.glu(y, 1).square().sum().backward()
    expected = [x.grad, skip.grad, conv.conv.weight.grad, deconv.conv.weight.grad]
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@CELL
def test_recurrent_step_equals_the_sequence_of_torch(cell: str) -> None:
    torch.manual_seed(6)
    rnn = GroupedRnn(cell, 12, 8, 2).eval()  # type: ignore[arg-type]
    x = torch.randn(3, 9, 12)
    zeros = tuple(torch.zeros(3, 8) for _ in rnn.state_names)
    whole, last = rnn(x, zeros)
    state, steps = zeros, []
    for t in range(9):
        y, state = rnn(x[:, t : t + 1], state)
        steps.append(y)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-6)
    for a, b in zip(state, last, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_groups_are_rearranged_between_layers() -> None:
    net = Gcrn(TINY, 201).eval()
    x = torch.randn(1, 1, net.encoding_size, requires_grad=True)
    out, _ = net.recur(x.unflatten(-1, (8, -1)).transpose(1, 2))
    # After rearrangement both groups of layer 2 see both groups of layer 1.
    for unit in (0, TINY.hidden - 1):
        (gradient,) = torch.autograd.grad(
            net.rnns[1](
                torch.cat(
                    [
                        net.rnns[0](x, (torch.zeros(1, 20),))[0]
                        .unflatten(-1, (2, -1))
                        .transpose(-1, -2)
                        .flatten(-2)
                    ]
                ),
                (torch.zeros(1, 20),),
            )[0][0, 0, unit],
            x,
            retain_graph=True,
        )
        halves = gradient[0, 0].chunk(2)
        assert all(half.abs().max() > 0 for half in halves)
    assert out.shape == (1, 1, net.encoding_size // 8, 8)


def test_extra_features_stand_beside_the_recurrent_output() -> None:
    config = GcrnConfig(channels=(4, 6, 8), hidden=20, extra_features=5)
    net = Gcrn(config, 201).eval()
    spec, extra = torch.randn(2, 2, 7, 201), torch.randn(2, 7, 5)
    with torch.no_grad():
        out, _ = net(spec, extra=extra)
        other, _ = net(spec, extra=extra + 1)
    assert out.shape == spec.shape
    assert not torch.allclose(out, other)


def test_compress_keeps_phase_and_powers_the_magnitude() -> None:
    spec = torch.randn(1, 2, 4, 5)
    z = torch.complex(spec[:, 0], spec[:, 1])
    expected = torch.polar(z.abs() ** 0.3, z.angle())
    got = compress(spec, 0.3)
    assert torch.allclose(torch.complex(got[:, 0], got[:, 1]), expected, atol=1e-5)
    assert not compress(torch.zeros_like(spec), 0.3).any()


def test_the_running_level_is_the_mean_then_forgets() -> None:
    torch.manual_seed(7)
    level, spec = RunningLevel(4), torch.randn(1, 2, 9, 5) * torch.arange(1.0, 10)[:, None]
    zeros = (torch.zeros(1, 1), torch.zeros(1, 1))
    out, (mean, count) = level(spec, zeros)
    power = spec.square().sum(1).mean(2)[0]  # (T,)
    expected = [power[: t + 1].mean() for t in range(4)]
    for t in range(4, 9):
        expected.append(expected[-1] * 3 / 4 + power[t] / 4)
    for t in range(9):
        assert torch.allclose(out[:, :, t], spec[:, :, t] / expected[t].sqrt(), rtol=1e-5)
    assert float(count) == 4 and torch.allclose(mean[0, 0], expected[-1], rtol=1e-5)
    louder, _ = level(20 * spec, zeros)
    assert torch.allclose(louder, out, rtol=1e-5)
    assert not level(torch.zeros_like(spec), zeros)[0].any()


@pytest.mark.parametrize("mixing", ["recurrent", "attention", "dense"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_macs_of_a_dual_path_are_those_that_its_products_perform(mixing: str, cell: str) -> None:
    config = GcrnConfig(
        channels=(4, 8, 16), cell=cell, hidden=12, decoders=1,  # type: ignore[arg-type]
        bottleneck="dual_path", mixing=mixing, kernel_frames=2,  # type: ignore[arg-type]
    )  # fmt: skip
    net = Gcrn(config, 65).eval()
    rows, block = net.sizes[-1], net.rnns[0]
    # Every weight of the block works once for each position, but the dense layer over positions
    # once for each channel; attention has two products without weights.
    weights = {n: p for n, p in block.named_parameters() if p.ndim > 1 and "place" not in n}
    once = weights.pop("mix.positions.weight", torch.zeros(0)).numel() * 16
    counted = rows * sum(p.numel() for p in weights.values()) + once
    counted += 2 * rows * rows * 16 if mixing == "attention" else 0
    plain = replace(config, rnn_layers=1)
    assert macs_per_frame(config, 65) - macs_per_frame(plain, 65) == counted
    single = replace(config, kernel_frames=1)
    layers = zip(net.encoder, net.sizes[1:], strict=True)
    extra = sum(layer.conv.weight[:, :, 0].numel() * f for layer, f in layers)
    assert macs_per_frame(config, 65) - macs_per_frame(single, 65) == extra


@pytest.mark.parametrize("name", [n for n, c in MODELS.items() if c.bottleneck == "grouped"])
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_macs_are_those_that_the_layers_perform(name: str, framing: str) -> None:
    bins = FRAMINGS[framing].bins
    config = MODELS[name]
    net = Gcrn(config, bins).eval()
    counted = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal counted
        if isinstance(module, GatedConv):
            counted += 2 * out[0].numel() * module.conv.weight[0].numel()
        if isinstance(module, GatedDeconv):
            counted += 2 * inputs[0][0].numel() * module.conv.weight[0].numel()

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.randn(1, 2, 1, bins))
    counted += sum(
        p.numel() for rnn in net.rnns for n, p in rnn.named_parameters() if "weight" in n
    )
    counted += net.join.weight.numel() if isinstance(net.join, nn.Linear) else 0
    counted += 4 * bins  # complex mask
    assert macs_per_frame(config, bins) == counted


def test_presets_keep_their_budgets() -> None:
    def parameters(name: str) -> int:
        return sum(p.numel() for p in Gcrn(MODELS[name], FRAMINGS["25-20"].bins).parameters())

    assert parameters("gcrn-small") <= 1_000_000
    sizes = [parameters(f"gcrn-{name}") for name in ("micro", "tiny", "small", "16mb")]
    assert sizes == sorted(sizes) and sizes[0] > 0
    # 201 x 2 x 400 float32 of DFT stand in the file beside the weights.
    assert 4 * (parameters("gcrn-16mb") + 201 * 2 * 400) <= 16_000_000


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"channels": (4,) * 9}, "nothing"),
        ({"hidden": 21}, "groups"),
        ({"compression": 0.0}, "compression"),
        ({"channels": ()}, "channels"),
        ({"extra_features": -1}, "extra_features"),
    ],
)
def test_impossible_networks_are_refused(fields: dict[str, object], word: str) -> None:
    with pytest.raises(EnhanceError, match=word):
        Gcrn(GcrnConfig(**fields), 201)  # type: ignore[arg-type]
