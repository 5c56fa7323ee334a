"""Volumes: directories that outlive sandboxes, and their content as the host serves it."""
