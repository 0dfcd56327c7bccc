"""`python -m cgn_platform.cli`: the same as the console script `cgn`."""

from cgn_platform.cli import main

main()
