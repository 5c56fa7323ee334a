"""How a sandbox runs on this host."""
