"""Lock files between processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.study import locks as claims
from benchmarks.study.locks import held, take


def test_claims(
    tmp_path: Path,
    hold: Callable[[Path], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = tmp_path / "locks" / "a"
    other = hold(lock)
    assert held(lock)
    assert take(lock) is None
    holder = json.loads(lock.read_text())
    assert holder["pid"] == other.pid and holder["host"]
    # On another machine only the heartbeat tells.
    lock.write_text(json.dumps({**holder, "space": "elsewhere"}))
    other.kill()
    other.wait()
    assert take(lock) is None
    os.utime(lock, (0, 0))
    assert not held(lock)
    # Of many that find it dead at the same moment, one gets it.
    won: list[claims.Claim | None] = []
    barrier = threading.Barrier(8)
    seen: set[int] = set()

    def look(path: Path, *, stale: float = claims.STALE) -> bool:
        alive = held(path, stale=stale)
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            barrier.wait()
        return alive

    def try_it() -> None:
        won.append(take(lock))

    monkeypatch.setattr(claims, "held", look)
    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    mine = [claim for claim in won if claim is not None]
    assert len(won) == 8 and len(mine) == 1
    with mine[0]:
        assert held(lock)
    assert not lock.exists()
    assert take(lock) is not None


def test_a_claim_that_was_taken_over_interrupts(tmp_path: Path) -> None:
    lock = tmp_path / "a"
    claim = take(lock, beat=0.05)
    assert claim is not None

    def lose() -> None:
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "token": "another"}))
        threading.Event().wait(10)

    # A shell starts what runs in the background with the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            lose()
    finally:
        signal.signal(signal.SIGINT, before)
    assert claim.lost
    claim.__exit__(None, None, None)
    assert lock.exists()  # the other's
