"""Observation of an exit's traffic through its tunnel: egress address and country, DNS resolvers, latency and speed."""
