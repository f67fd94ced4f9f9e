"""The one error type a user of enhance sees."""

from __future__ import annotations

import importlib.util


class EnhanceError(Exception):
    """Something the user can act on: what happened, where, and what to do.

    The message is one line. The command line prints it without a traceback and
    exits with code 2; library code lets it travel.
    """


def require(extra: str, *modules: str) -> None:
    """Check that optional modules are installed, without importing them.

    ``modules`` are top-level import names. An `EnhanceError` tells of those that are missing, and
    to install the ``extra`` of this distribution that brings them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise EnhanceError(
            f"this command needs {', '.join(missing)}, not installed here: "
            f"pip install 'enhance[{extra}]'"
        )
