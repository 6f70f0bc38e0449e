"""The node's settings: what they are (`model`), their file (`file`), which one wins (`load`).

Does not know where the home is (`kwaai.store`) and prints nothing (`kwaai.cli`).
"""

from __future__ import annotations

from kwaai.config.load import LoadedConfig, Setting, Source, load_config
from kwaai.config.model import KEYS, Config

__all__ = ["KEYS", "Config", "LoadedConfig", "Setting", "Source", "load_config"]
