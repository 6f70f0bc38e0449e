"""W3C identity and credentials as pure functions: bytes and values in, values or errors out.

No clock, disk, socket, thread, randomness or logging; imports `schemas` only; usable without the
node.
"""
