"""int8 versions: what is int8, judged by the graphs and by arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_export import Exported, make_model

from enhance.config import GcrnConfig, ModelConfig
from enhance.errors import EnhanceError
from export.graph.inspect import inspect, optimised
from export.graph.quantize import FLOAT_SHARES, products, quantize
from export.graph.step import operators, step_graph


def constants(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def test_all_but_the_smallest_products_are_int8(exported: Exported) -> None:
    fp32, int8, weights = exported.graphs
    shapes = {name: value.shape for name, value in constants(fp32).items()}
    matrices = [n.input[1] for n in fp32.graph.node if n.op_type == "MatMul"]
    matrices = [name for name in matrices if name in shapes]
    large, small = ({p.name for p in part} for part in products(fp32))
    assert large | small == set(matrices)
    assert not large & small
    ends = [name.rpartition("model.")[2] for name in small]
    assert "stft.basis" in ends and "network.encoder.0.weight" in ends
    assert all(name in large for name in matrices if ".rnns." in name)
    sizes = {name: np.prod(shapes[name]) for name in matrices if not name.endswith("stft.basis")}
    outer = [size for name, size in sizes.items() if name in small]
    inner = [size for name, size in sizes.items() if name in large]
    assert max(outer) <= min(inner)
    assert sum(outer) <= FLOAT_SHARES[0] * sum(sizes.values()) < sum(outer) + min(inner)
    for graph in (int8, weights):
        kept = constants(graph)
        for name in large:
            assert name not in kept
            assert kept[f"{name}.s8"].dtype == np.int8
        # Float left in the file: the DFT, its partner (no constant of its own), small layers.
        left = {n.input[1] for n in graph.graph.node if n.op_type == "MatMul"} & set(kept)
        assert left == set(matrices) - large
        assert next(n for n in left if n.endswith("stft.basis"))
    assert operators(int8)["MatMulInteger"] == len(large)
    assert operators(weights)["DequantizeLinear"] == len(large)


def test_runtime_multiplies_in_int8(exported: Exported) -> None:
    fp32, int8, _ = exported.graphs
    report = inspect(int8, fp32)
    assert report["int8_operators_as_run"] == len(products(fp32)[0])
    assert report["int8_operators_as_run"] == len(report["int8_products"])
    sizes = {name: value.size for name, value in constants(int8).items()}
    share = sum(sizes[f"{name}.s8"] for name in report["int8_products"])
    whole = share + sum(sizes[name] for name in report["float_products"])
    assert report["int8_weight_share"] == pytest.approx(share / whole)
    found = operators(optimised(int8))
    assert "MatMulInteger" not in found  # fused: no int32 tensor goes through memory
    nothing = inspect(fp32, fp32)
    assert not nothing["int8_products"]
    assert nothing["int8_operators_as_run"] == 0


def test_activations_are_u8_and_weights_symmetric(exported: Exported) -> None:
    _, int8, weights = exported.graphs
    makers = {o: n.op_type for n in int8.graph.node for o in n.output}
    kept = constants(int8)
    for node in int8.graph.node:
        if node.op_type == "MatMulInteger":
            assert makers[node.input[0]] == "DynamicQuantizeLinear"  # U8 by its definition
            assert not kept[node.input[3]].any()
    for graph, largest in ((int8, 63), (weights, 127)):
        values = [v for k, v in constants(graph).items() if k.endswith(".s8")]
        assert max(np.abs(v).max() for v in values) == largest
        # Per column: every column that holds anything uses the whole range.
        assert all((np.abs(v).max(0) == largest).mean() > 0.9 for v in values)


def test_rounding_is_to_the_nearest(exported: Exported) -> None:
    fp32, int8, weights = exported.graphs
    before = constants(fp32)
    for graph in (int8, weights):
        after = constants(graph)
        for product in products(fp32)[0]:
            scale = after[f"{product.name}.scale"]
            restored = after[f"{product.name}.s8"] * scale
            assert (np.abs(restored - before[product.name]) <= 0.5001 * scale).all()


def test_refuses_what_it_cannot_do(exported: Exported) -> None:
    with pytest.raises(EnhanceError, match="int4"):
        quantize(exported.graphs[0], "int4")
    with pytest.raises(EnhanceError, match="int8 already"):
        quantize(exported.graphs[1], "int8")
    bare = onnx.ModelProto.FromString(exported.graphs[0].SerializeToString())
    del bare.graph.node[:]
    with pytest.raises(EnhanceError, match="no matrix product"):
        quantize(bare, "int8")


def test_a_recurrence_over_frequency_stays_in_float_and_is_counted() -> None:
    gcrn = GcrnConfig(
        (4, 8, 16), "lstm", 24, decoders=1, bottleneck="dual_path", level_frames=9
    )  # fmt: skip
    fp32 = step_graph(make_model(ModelConfig(gcrn=gcrn)), {"producer": "enhance 0"})
    report = inspect(quantize(fp32, "int8"), fp32)
    assert len(report["float_recurrences"]) == 2 * gcrn.rnn_layers  # of input and of state
    recurrent = 2 * 2 * 4 * 8 * (16 + 8)  # blocks, ways, gates, half of the channels, inputs
    whole = sum(p.inputs * p.outputs for part in products(fp32) for p in part)
    kept = constants(quantize(fp32, "int8"))
    int8 = sum(kept[f"{name}.s8"].size for name in report["int8_products"])
    assert report["int8_weight_share"] == pytest.approx(int8 / (whole + recurrent))
    assert int8 > recurrent > 0
