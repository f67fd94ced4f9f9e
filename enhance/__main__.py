"""`python -m enhance` is `enhance`."""

from enhance.cli.app import main

main()
