"""Figures of the house: files, lines, rooms, arrows and circles. `make rooms` prints them.

A room is a folder with code; the loose files of a package are its ground floor, a room too. An
arrow goes from a room to another that it imports, inside functions too. The command line is the
front door, which may import everything: its arrows are left out. `lint-imports` checks what is
allowed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

PACKAGES = ("enhance", "distill", "export", "benchmarks")
FRONT = ("enhance.cli", "enhance.__main__")


def main() -> None:
    """Print the figures of the checkout that is the working directory."""
    sys.path.insert(0, str(Path.cwd()))
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    folders = {m for m in graph.modules if graph.find_children(m)}
    room = {m: m if m in folders else m.rpartition(".")[0] for m in graph.modules}
    arrows = {
        (room[importer], room[imported])
        for importer in graph.modules
        if not importer.startswith(FRONT)
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    arrows = {(a, b) for a, b in arrows if a != b}
    files = [path for name in PACKAGES for path in Path(name).rglob("*.py")]
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in files)
    circles = sorted(circles_of(arrows))
    print(f"{len(files)} files, {lines} lines, {len(set(room.values()))} rooms, ", end="")
    print(f"{len(arrows)} arrows, {len(circles)} circles")
    for name in PACKAGES:
        level = sorted(m.rpartition(".")[2] for m in graph.find_children(name) if "__" not in m)
        print(f"{name}: {len(level)} on one level: {' '.join(level)}")
    for circle in circles:
        print("circle:", " ".join(circle))


def circles_of(arrows: set[tuple[str, str]]) -> set[tuple[str, ...]]:
    """Largest sets of rooms that all reach each other."""
    reach: dict[str, set[str]] = {}
    for start, _ in arrows:
        reach[start], ahead = set(), {start}
        while ahead:
            ahead = {b for a, b in arrows if a in ahead} - reach[start]
            reach[start] |= ahead
    return {
        tuple(sorted(b for b in found if a in reach.get(b, ())))
        for a, found in reach.items()
        if a in found
    }


if __name__ == "__main__":
    main()
