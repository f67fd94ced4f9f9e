"""`python -m enhance` is `enhance`."""

from enhance.cli import main

main()
