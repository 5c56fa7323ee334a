"""What clients speak. Each door only translates between a protocol and the core."""
