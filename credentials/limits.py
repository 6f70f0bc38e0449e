"""Every bound of this package, with its unit and its reason. A package of its own has its own list.
"""

from __future__ import annotations

from typing import Final

DOCUMENT_BYTES_MAX: Final = 256 * 1024
"""Of one credential or presentation; a large one of the wild has 30 kB, a status list 20 kB."""
DOCUMENT_DEPTH_MAX: Final = 32
"""Levels of nesting; the deepest in the W3C's suites has 9."""
DID_CHARS_MAX: Final = 4096
"""Base58 decoding is quadratic: 4 kB take 12 ms, 64 kB 2.9 s."""
PROOFS_MAX: Final = 8
"""Of one document; each costs a canonicalisation and a signature."""
CREDENTIALS_MAX: Final = 32
"""In one presentation."""
CLOCK_SKEW_S: Final = 300
"""How far clocks may differ; Digital Bazaar's libraries use the same."""
