"""The config.yaml that `setup` writes: every key with its meaning, its default commented out."""

from __future__ import annotations

import textwrap

from kwaai.config.model import Config, show_value

_INTRODUCTION = """\
# The settings of this kwaainet node. A line that begins with # is a comment: remove the # to set
# the key, or use `kwaainet config set KEY VALUE`. `kwaainet config show` says what is in force.
# Flags win over the environment (KWAAINET_<KEY>), that over this file, that over the defaults.
"""


def config_template() -> str:
    """Return the text; as a config.yaml it sets nothing."""
    parts = [_INTRODUCTION]
    for key, field in Config.model_fields.items():
        meaning = textwrap.fill(
            field.description or "", 98, initial_indent="# ", subsequent_indent="# "
        )
        default = field.get_default(call_default_factory=True, validated_data={})
        parts.append(f"\n{meaning}\n#{key}: {show_value(key, default)}\n")
    return "".join(parts)
