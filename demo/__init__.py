"""A complete Exitplane on one machine: a control plane, a gateway, exits with tunnels, and a small internet.

`demo.setup.open_lab` creates a `Lab`, which `exitplane demo`, benchmarks and the end-to-end tests use.
"""
