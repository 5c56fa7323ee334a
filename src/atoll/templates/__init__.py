"""Environments that sandboxes start from."""
