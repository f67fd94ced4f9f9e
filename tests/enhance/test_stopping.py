"""SIGTERM and SIGHUP leave nothing half written, and the process still ends by them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from enhance.audio.write import write
from enhance.files import atomic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minutes of work."""
    path = tmp_path_factory.mktemp("a") / "long.wav"
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 5 * 60 * 16000).astype(np.float32)
    write(path, wave, 16000)
    return path


def stop_at_first_part(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    while not list(folder.glob(".*part*")):
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    process.wait(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_run_leaves_no_part(tmp_path: Path, long: Path, number: signal.Signals) -> None:
    older = tmp_path / "out.wav"
    older.write_text("older")
    process = subprocess.Popen(
        [sys.executable, "-m", "enhance", "run", "-f", str(long), str(older)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        # Under nohup or in the background the signal would be ignored from the start.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    stop_at_first_part(process, tmp_path, number)
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]
    assert older.read_text() == "older"
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in process.communicate()[1]


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True) or sys.exit(7))", 7),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", -signal.SIGTERM),
    ],
)
def test_the_users_handlers_stay(tmp_path: Path, before: str, code: int) -> None:
    text = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from enhance.files import atomic\n"
        f"{before}\n"
        "old = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)]\n"
        "with atomic(sys.argv[1]) as part:\n"
        "    if code := signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:\n"
        "        signal.raise_signal(signal.SIGHUP)\n"
        "with atomic(Path(sys.argv[1]).with_name('b')) as part:\n"
        "    time.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path / "a")], cwd=ROOT, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    while not list(tmp_path.glob(".b.*part*")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == code
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (process.communicate()[0] == "mine\n") == (code == 7)


def test_handlers_come_back_and_threads_set_none(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    inside = []

    def work() -> None:
        with atomic(tmp_path / "thread") as part:
            part.write_text("x")
            inside.append([signal.getsignal(number) for number in numbers])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
    with atomic(tmp_path / "main") as part:
        part.write_text("x")
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["main", "thread"]
