"""Causal speech enhancement that runs on the device.

>>> from enhance import Enhancer
>>> enhancer = Enhancer.from_pretrained("default")
>>> clean = enhancer(noisy, 16000)

The import is light: numpy and ONNX Runtime are loaded with the first use of `Enhancer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enhance.device.enhancer import Enhancer
    from enhance.errors import EnhanceError
    from enhance.stft import StftConfig

    __version__: str

__all__ = ["EnhanceError", "Enhancer", "StftConfig", "__version__"]

_HOMES = {
    "EnhanceError": "enhance.errors",
    "Enhancer": "enhance.device.enhancer",
    "StftConfig": "enhance.stft",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            value = metadata.version("enhance")
        except metadata.PackageNotFoundError:  # a source tree that was not installed
            value = "0.1.0"
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'enhance' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
