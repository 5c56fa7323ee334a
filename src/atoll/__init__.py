"""Atoll: the sandbox server for AI agents that a person can own."""

__version__ = "0.1.0"
