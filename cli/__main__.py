"""`python -m cli` is `exitplane`."""

from cli.main import main

main()
