"""The protocols between nodes as bytes and values: no socket, no clock, no randomness."""
