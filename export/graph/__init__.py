"""The network as an ONNX graph: written, rewritten, quantised, inspected."""
