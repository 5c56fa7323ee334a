"""What of the official clients works here, and the test that shows it.

The TOML files are the source of docs/compatibility.md; `python -m tests.compatibility` writes it.
"""
