"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from enhance.files import atomic


def test_others_may_read_what_a_library_wrote_for_its_owner_only(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with atomic(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"1")
            temporary.chmod(0o600)
    finally:
        os.umask(mask)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o644
