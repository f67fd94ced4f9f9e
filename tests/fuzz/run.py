"""Coverage-guided search for inputs that a reader neither takes nor refuses in one line.

    python tests/fuzz/run.py audio 60

Needs the extra `fuzz`. What is found is kept in tests/fuzz/crashes/TARGET, from where
`test_replay.py` tries it for ever; inputs that reach new code are kept in a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

with atheris.instrument_imports(include=["enhance", "yaml"]):
    import fuzz_targets


def main(target: str, seconds: str) -> None:
    """Search for some seconds; libFuzzer ends the process, with an error if it found something."""
    kept = fuzz_targets.CRASHES / target
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(fuzz_targets.seeds(target)):
            Path(corpus, f"seed{number}").write_bytes(data)
        limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048"]
        options = [*limits, "-max_len=8192", f"-artifact_prefix={kept}/", "-print_final_stats=1"]
        atheris.Setup(
            [sys.argv[0], corpus, str(kept), *options],
            lambda data: fuzz_targets.attempt(target, data),  # its answer is for the replay
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
