"""From a checkpoint to one streaming ONNX file that was proven equal to it."""
