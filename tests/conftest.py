"""Shared fixtures; `--corpus DIR` turns on the tests that need real audio."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

C_TOOLS = (
    "clang",
    "gcc",
    "aarch64-linux-gnu-gcc",
    "qemu-aarch64-static",
    "wasm-ld",
    "node",
)
"""What the tests of plain C compile and run with; they are skipped where one is missing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--corpus",
        default=None,
        metavar="DIR",
        help="folder with train/, dev/ and analysis/ of real speech and noise",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit it;
    # they are sent it in tests.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = config.getoption("--corpus")
    if folder is not None and not Path(folder).is_dir():
        raise pytest.UsageError(f"--corpus {folder}: no such folder")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--corpus") is None:
        terminalreporter.write_line(
            "NO REAL AUDIO: every test on real speech was skipped; "
            "run make test CORPUS=DIR (or pytest tests --corpus DIR)",
            yellow=True,
            bold=True,
        )
    missing = [name for name in C_TOOLS if shutil.which(name) is None]
    if missing:
        terminalreporter.write_line(
            f"NO {', '.join(missing)}: plain C was not tested with them; install them",
            yellow=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def corpus(request: pytest.FixtureRequest) -> Path:
    """Folder of real speech and noise; the test is skipped where none was named."""
    folder = request.config.getoption("--corpus")
    if folder is None:
        pytest.skip("needs real audio: make test CORPUS=DIR")
    return Path(folder).resolve()


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once() -> Iterator[None]:
    """torch's exporter parses the source of 500 operators anew for every export: a fifth of it."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        once = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share one cache folder of the session and never touch the user's."""
    base = tmp_path_factory.getbasetemp()
    base = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    base.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))


@pytest.fixture(autouse=True)
def _own_log_level() -> Iterator[None]:
    """A command that shows its progress does so in its own test only."""
    log = logging.getLogger("enhance")
    level = log.level
    yield
    log.setLevel(level)
