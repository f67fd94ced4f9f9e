"""Int8 versions of a step graph, in plain ONNX operators.

A step graph does its work in matrix products ``x W`` with constant W (`export.graph.rewrite`), so
that a quantiser needs to know one operator. Two versions:

*int8*. ``x`` is rounded to U8 by its own range, found anew in every frame, W to S8 with one scale
per column; the product is exact in int32 and goes back to float at once. ONNX Runtime fuses the
operators into one (`DynamicQuantizeMatMul`). Between layers all is float, so that no range is
guessed beforehand, no calibration data are needed, and no output is rounded. U8 by S8 is what
processors multiply (x86 VNNI, Arm dot products); S8 by S8 is several times slower on x86.
W uses 7 of the 8 bits: x86 without VNNI adds two products in 16 bits, ``2 * 255 * 63 < 2**15``
fits and ``2 * 255 * 127`` would saturate, so that the figures of the certificate hold on every
processor. The eighth bit is worth 2 to 3 dB.

*int8-weights*. Only the stored W is int8, all 8 bits; the file says that it is made float before
the product. A runtime may do better: ONNX Runtime 1.31 fuses the two (`MatMulNBits`).

Left in float: the DFT (its error would reach the output undamped, and it is shared between
analysis and synthesis), and the smallest products, a share of the weights together. Those are the
outer layers, whose errors count most: in a trained `gcrn-small` the second and the last layer made
three quarters of the whole error, and in a `gcrn-dual` the second encoder layer in float is worth
10 dB on its worst clip. `FLOAT_SHARES` are tried in turn until the certificate's bounds hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from enhance.errors import EnhanceError

FLOAT_SHARES = (0.01, 0.02, 0.05)
"""Of all weights, such a share stays in float: the smallest products that together hold no more."""

WEIGHT_BITS = {"int8": 7, "int8-weights": 8}
"""Bits of a weight that are used, by mode."""

FLOAT_WEIGHTS = ("stft.basis",)
"""Endings of the names of weights that always stay in float."""


class Product(NamedTuple):
    """A product with a constant matrix, or several of one size: name, rows K of all, columns N."""

    name: str
    inputs: int
    outputs: int


def products(
    graph: ModelProto, share: float = FLOAT_SHARES[0]
) -> tuple[list[Product], list[Product]]:
    """Products of a float graph that are quantised, and those that stay in float."""
    shapes = {i.name: tuple(i.dims) for i in graph.graph.initializer}
    found = [
        Product(node.input[1], math.prod(shapes[node.input[1]][:-1]), shapes[node.input[1]][-1])
        for node in graph.graph.node
        if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) >= 2
    ]
    left = {product.name for product in found if product.name.endswith(FLOAT_WEIGHTS)}
    left |= smallest({p.name: p.inputs * p.outputs for p in found if p.name not in left}, share)
    chosen = [product for product in found if product.name not in left]
    return chosen, [product for product in found if product.name in left]


def smallest(sizes: Mapping[str, int], share: float) -> set[str]:
    """Names of the smallest matrices that together hold no more than this share of all."""
    budget = share * sum(sizes.values())
    left = set()
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        budget -= size
        if budget < 0:
            break
        left.add(name)
    return left


def quantize(graph: ModelProto, mode: str, share: float = FLOAT_SHARES[0]) -> ModelProto:
    """An int8 version of what `export.graph.step.step_graph` made, which is not changed.

    ``mode`` is ``"int8"`` or ``"int8-weights"``, written into the metadata as ``quantization``;
    ``share`` of all weights may stay in float. An `EnhanceError` tells that the mode is unknown,
    the graph is quantised already, or there is nothing to quantise.
    """
    if mode not in WEIGHT_BITS:
        raise EnhanceError(f"quantisation {mode!r}: unknown; choose {' or '.join(WEIGHT_BITS)}")
    done = next((e.value for e in graph.metadata_props if e.key == "quantization"), "none")
    if done != "none":
        raise EnhanceError(f"export: the graph is {done} already; quantise the fp32 one")
    chosen = {product.name for product in products(graph, share)[0]}
    if not chosen:
        raise EnhanceError("export: the graph holds no matrix product for int8; export fp32 only")
    out = ModelProto.FromString(graph.SerializeToString())
    main = out.graph
    constants = []
    for tensor in main.initializer:
        if tensor.name in chosen:
            rounded, scale = round_columns(numpy_helper.to_array(tensor), WEIGHT_BITS[mode])
            parts = {"s8": rounded, "scale": scale, "zero": np.zeros(len(scale), np.int8)}
            for end, values in parts.items():
                constants.append(numpy_helper.from_array(values, f"{tensor.name}.{end}"))
        else:
            constants.append(tensor)
    nodes: list[NodeProto] = []
    ready: set[str] = set()  # what is quantised already, for a second product to share
    for node in main.node:
        if node.op_type == "MatMul" and node.input[1] in chosen:
            nodes += _weights_only(node) if mode == "int8-weights" else _dynamic(node, ready)
        else:
            nodes.append(node)
    del main.node[:], main.initializer[:]
    main.node.extend(nodes)
    main.initializer.extend(constants)
    for entry in out.metadata_props:
        if entry.key == "quantization":
            entry.value = mode
    onnx.checker.check_model(out, full_check=True)
    return out


def round_columns(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and the scale of each column, symmetric about zero.

    Shape: (K, N) -> int8 (K, N), float32 (N,)
    """
    weight = weight.astype(np.float64)
    largest = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(0) / largest  # (N,)
    scale[scale == 0] = 1.0
    rounded = np.clip(np.rint(weight / scale), -largest, largest).astype(np.int8)
    return rounded, scale.astype(np.float32)


def _weights_only(node: NodeProto) -> list[NodeProto]:
    x, weight = node.input
    y = node.output[0]
    parts = [f"{weight}.s8", f"{weight}.scale", f"{weight}.zero"]
    return [
        helper.make_node("DequantizeLinear", parts, [f"{y}.weight"], f"{y}.weight", axis=1),
        helper.make_node("MatMul", [x, f"{y}.weight"], [y], node.name),
    ]


def _dynamic(node: NodeProto, ready: set[str]) -> list[NodeProto]:
    x, weight = node.input
    y = node.output[0]
    nodes = []
    if x not in ready:
        ready.add(x)
        parts = [f"{x}.u8", f"{x}.scale", f"{x}.zero"]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts, f"{x}.u8"))
    factors = [f"{x}.u8", f"{weight}.s8", f"{x}.zero", f"{weight}.zero"]
    return [
        *nodes,
        helper.make_node("MatMulInteger", factors, [f"{y}.s32"], f"{y}.s32"),
        helper.make_node("Cast", [f"{y}.s32"], [f"{y}.sum"], f"{y}.sum", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{x}.scale", f"{weight}.scale"], [f"{y}.scale"], f"{y}.scale"),
        helper.make_node("Mul", [f"{y}.sum", f"{y}.scale"], [y], node.name),
    ]
