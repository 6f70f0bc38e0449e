"""docs/credential-api.md speaks of every route, option and problem type, and of no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from credentials import errors, limits
from kwaai.api import vc_bodies
from kwaai.api.vc_server import create_vc_app
from kwaai.limits import KIB, VC_BODY_BYTES_MAX, VC_LISTED_MAX
from kwaai.node.credential_office import CredentialOffice

DOC = (Path(__file__).parents[2] / "docs" / "credential-api.md").read_text(encoding="utf-8")
IN_CODE = set(re.findall(r"[A-Za-z_]+", " ".join(re.findall(r"`([^`\n]+)`", DOC))))
NEUTRAL = {"type", "mandatoryPointers", "proofPurpose", "returnProblemDetails", "returnResults"}
"""Options of the standards that may be given, and change nothing here."""


def test_every_route_is_in_the_docs_and_no_other() -> None:
    app = create_vc_app(cast(CredentialOffice, object()))
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = set(re.findall(r"^\| `((?:GET|POST) [^`]+)`", DOC, re.MULTILINE))
    assert documented | {"GET /health"} == served


def test_every_option_is_in_the_docs() -> None:
    for shape in (
        *(vc_bodies.IssueOptions, vc_bodies.CredentialOptions),
        *(vc_bodies.PresentationOptions, vc_bodies.ProveOptions),
    ):
        assert set(shape.model_fields) - NEUTRAL <= IN_CODE
    assert set(vc_bodies.CHECKS) <= IN_CODE


def test_every_problem_type_is_in_the_docs() -> None:
    def leaves(kind: type[errors.CredentialsError]) -> list[type[errors.CredentialsError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]

    for kind in leaves(errors.CredentialsError):
        base, _, name = kind.problem.rpartition("#")
        assert name in IN_CODE, kind
        assert f"`{base}#`" in DOC, kind


def test_numbers_in_the_docs_are_the_bounds() -> None:
    for text in [
        f"at most {VC_BODY_BYTES_MAX // KIB:,} KiB",
        f"nested at most {limits.DOCUMENT_DEPTH_MAX} deep",
        f"within {limits.CHALLENGE_TTL_S / 60:g} minutes",
        f"(up to {VC_LISTED_MAX})",
    ]:
        assert text in DOC
