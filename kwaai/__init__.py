"""One node of a decentralised AI network: the `kwaainet` program's own packages."""

__version__ = "0.1.0"
