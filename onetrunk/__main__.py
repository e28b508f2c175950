"""`python -m onetrunk` is the command line."""

from onetrunk.cli.app import main

main()
