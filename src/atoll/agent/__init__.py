"""The agent: the program inside each sandbox, and the host's end of its connections."""
