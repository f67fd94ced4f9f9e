"""Sound devices made of lists, in the place of those of the module sounddevice."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(17)
RATE, HOP = 48000, 768
DELAY = 5000  # samples that the cable of the fake devices holds


def noise(count: int) -> np.ndarray:
    return RNG.uniform(-0.3, 0.3, (count, 1)).astype(np.float32)


class Devices:
    """In the place of the module sounddevice: what is written comes back `DELAY` samples later."""

    class PortAudioError(Exception):
        pass

    def __init__(self, heard: np.ndarray | None = None) -> None:
        self.heard = heard
        self.line = [np.zeros((DELAY, 1), np.float32)]
        self.played: list[np.ndarray] = []
        self.reads = 0
        self.gone_after = 1 << 62  # reads
        self.late: set[int] = set()  # writes that come too late
        self.lost: set[int] = set()  # reads before which something was lost
        self.asked: list[dict[str, Any]] = []
        self.closed: list[str] = []

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        if device is None and kind is None:
            return "> 0 microphone\n< 1 loudspeaker"
        if device not in (None, 0, "micro"):
            raise ValueError(f"No input device matching {device!r}")
        return {"default_samplerate": float(RATE)}

    def _stream(self, kind: str, **options: Any) -> Any:
        self.asked.append({"kind": kind, **options})
        if options["samplerate"] != RATE:
            raise self.PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        return SimpleNamespace(
            read=self._read, write=self._write, read_available=HOP, write_available=4 * HOP,
            start=lambda: None, abort=self.abort, close=lambda: self.closed.append(kind),
        )  # fmt: skip

    def abort(self) -> None:
        pass

    def InputStream(self, **options: Any) -> Any:
        return self._stream("in", **options)

    def OutputStream(self, **options: Any) -> Any:
        return self._stream("out", **options)

    def _read(self, count: int) -> tuple[np.ndarray, bool]:
        if self.reads >= self.gone_after:
            time.sleep(60)  # as a call to a sound server that has gone away
        self.reads += 1
        time.sleep(0.001)
        source = np.concatenate(self.line) if self.heard is None else self.heard
        block = np.zeros((count, 1), np.float32)
        part = source[:count]
        block[: len(part)] = part
        if self.heard is None:
            self.line = [source[count:]]
        else:
            self.heard = source[count:]
        return block, self.reads in self.lost

    def _write(self, block: np.ndarray) -> bool:
        assert block.dtype == np.float32 and block.shape[1] == 1
        self.line.append(block)
        self.played.append(block)
        return len(self.played) in self.late


def use(monkeypatch: pytest.MonkeyPatch, devices: Devices) -> Devices:
    monkeypatch.setitem(sys.modules, "sounddevice", devices)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal, no keys
    return devices


def quit_after(monkeypatch: pytest.MonkeyPatch, devices: Devices, reads: int) -> None:
    @contextlib.contextmanager
    def pressed() -> Iterator[Any]:
        yield lambda: "q" if devices.reads >= reads else ""

    monkeypatch.setattr("enhance.device.live.pressed", pressed)
