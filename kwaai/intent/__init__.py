"""What a request asks of whoever answers, signed; what peers offer; and what came of it.

Pure: no clock, no network, no disk. docs/intents.md.
"""
