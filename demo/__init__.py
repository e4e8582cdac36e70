"""A whole Exitplane on one machine: a control plane, a gateway, exits behind real tunnels and a small internet.

`Scene` is the reusable piece; `exitplane demo` and the end-to-end tests are its users.
"""
