"""The network: causality of every layer, one frame = many, arithmetic against torch's own."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from enhance.config import MODELS, GcrnConfig, ModelConfig
from enhance.errors import EnhanceError
from enhance.gcrn import GatedConv, GatedDeconv, Gcrn, GroupedRnn, compress, macs_per_frame
from enhance.losses import si_sdr
from enhance.spectral import WaveformModel
from enhance.stft import FRAMINGS, StftConfig

TINY = GcrnConfig(channels=(4, 6, 8), hidden=20, groups=2)
CELL = pytest.mark.parametrize("cell", ["lstm", "gru"])
OUTPUT = pytest.mark.parametrize("output", ["complex_mask", "complex_mapping"])
DECODERS = pytest.mark.parametrize("decoders", [1, 2])


def settled(model: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """The model in eval mode, its batch norms holding the statistics of the inputs."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(*inputs)
    return model.eval()


def tiny_model(stft: StftConfig = FRAMINGS["25-20"], **fields: object) -> WaveformModel:
    torch.manual_seed(1)
    config = GcrnConfig(channels=(4, 6, 8), hidden=20, groups=2, **fields)  # type: ignore[arg-type]
    model = WaveformModel(ModelConfig(stft, config))
    audio = torch.randn(2, 20 * stft.hop_length) * 0.1
    settled(model, audio)
    return model


@CELL
@OUTPUT
@DECODERS
def test_the_future_changes_no_layer_output(cell: str, output: str, decoders: int) -> None:
    model = tiny_model(cell=cell, output=output, decoders=decoders)
    torch.manual_seed(2)
    audio = torch.randn(1, 12 * 320) * 0.1
    changed = audio.clone()
    changed[:, 7 * 320 :] += torch.randn(1, 5 * 320)
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
            or isinstance(m, (GroupedRnn, GatedConv, GatedDeconv))
        ]
        with torch.no_grad():
            store["output"] = model(wave)[0].unflatten(1, (12, 320))
        for handle in handles:
            handle.remove()
        seen.append(store)

    assert len(seen[0]) > 15
    for name, before in seen[0].items():
        after = seen[1][name]
        # Convolutions are (B, C, T, F), recurrent layers and the output (B, T, ...).
        axis = 2 if before.ndim == 4 else 1
        assert before.shape[axis] == 12, name
        past = [slice(None)] * axis + [slice(0, 7)]
        future = [slice(None)] * axis + [slice(7, None)]
        assert torch.equal(before[tuple(past)], after[tuple(past)]), name
        assert not torch.equal(before[tuple(future)], after[tuple(future)]), name


@CELL
@OUTPUT
@DECODERS
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_streaming_in_odd_pieces_equals_offline(
    cell: str, output: str, decoders: int, framing: str
) -> None:
    model = tiny_model(FRAMINGS[framing], cell=cell, output=output, decoders=decoders)
    hop = FRAMINGS[framing].hop_length
    torch.manual_seed(3)
    audio = torch.randn(2, 120 * hop) * 0.1
    with torch.no_grad():
        whole, last = model(audio)
        for sizes in ([1], [1, 7, 3], [119, 1], [2, 1, 1, 5]):
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
    x = torch.randn(2, 3, 5, 4)
    # By hand: input f reaches outputs 2f, 2f + 1 and 2f + 2, each by its own tap.
    expected = layer.conv.bias.view(1, 4, 1, 1).repeat(2, 1, 5, bins)
    for f in range(4):
        for tap in range(3):
            expected[..., 2 * f + tap] += torch.einsum(
                "bct,co->bot", x[..., f], layer.conv.weight[:, :, 0, tap]
            )
    assert torch.allclose(layer(x), F.glu(expected, 1), atol=1e-6)


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
    out, _ = net.recur(x)
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
    assert out.shape == x.shape


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
    assert torch.isfinite(compress(torch.zeros_like(spec), 0.3)).all()


@pytest.mark.parametrize("name", list(MODELS))
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
            counted += inputs[0][0].numel() * module.conv.weight[0].numel()

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
