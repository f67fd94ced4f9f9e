"""`python -m enhance` is `enhance`. Ctrl-C is heard before the command line is imported."""

import sys


def main() -> None:
    """Run the command line, see `enhance.cli.app.main`."""
    try:
        from enhance.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
