"""Entry point of `python -m cli`, which is `exitplane`."""

from cli.main import main

main()
