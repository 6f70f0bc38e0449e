"""`kwaainet credential`: issue, check, keep, show and take back verifiable credentials.

Registers the commands; each has its module.
"""

from __future__ import annotations

from kwaai.cli import (
    credential_backup,
    credential_issue,
    credential_peer,
    credential_present,
    credential_schema,
    credential_serve,
    credential_status,
    credential_verify,
    credential_wallet,
)
from kwaai.cli.parser import Commands, add_group


def add_parser(commands: Commands) -> None:
    group = add_group(
        commands, "credential", help="verifiable credentials: issue, check, keep, show, revoke"
    )
    for module in (
        credential_issue,
        credential_verify,
        credential_wallet,
        credential_status,
        credential_present,
        credential_peer,
        credential_schema,
        credential_backup,
        credential_serve,
    ):
        module.add_parser(group)
