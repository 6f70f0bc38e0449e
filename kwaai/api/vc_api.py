"""The credential routes: issue, verify, prove, status, the wallet's list, status lists, DIDs.

Translates between HTTP and the office (`kwaai.node.credential_office`), which does the work; bodies
are `vc_bodies`, errors `vc_problems`, threads `vc_work`. Listening and keys are the application's.
Shapes: VC API 0.7 (W3C CCG) and its successor VCALM 1.0; DID Resolution 1.0. docs/api.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlencode

from aiohttp import web
from aiohttp.typedefs import Handler

from credentials.document import Document, parse_time
from credentials.errors import CredentialsError, ModelInvalid, ProofNotMade
from credentials.model import check_credential
from credentials.resolution import ResolutionResult, resolution_result
from credentials.verified import VerifiedCredential, VerifiedPresentation
from kwaai import limits
from kwaai.api.errors import encode_json, error_response, json_response
from kwaai.api.vc_answers import (
    checks_of,
    credential_answer,
    expect,
    expect_purpose,
    presentation_answer,
    refused_response,
    require_contexts,
)
from kwaai.api.vc_bodies import (
    SUITES,
    IssueBody,
    IssueOptions,
    ProveBody,
    StatusBody,
    Suite,
    VerifyBody,
    VerifyPresentationBody,
    parse_body,
    read_document,
)
from kwaai.api.vc_problems import (
    STATUS_RETRIEVAL_ERROR,
    make_problem,
    problem_response,
    response_of,
)
from kwaai.api.vc_work import GetOffice, OfficeWork
from kwaai.errors import CredentialMissing, KwaaiError, Unauthorized, UserError
from kwaai.node.credential_office import CredentialOffice

WORK = web.AppKey("office", OfficeWork)
SUITE_DEFAULT: Suite = "eddsa-rdfc-2022"
"""What programs of others read; nodes among themselves use eddsa-jcs-2022."""
_VC_TYPE = "application/vc"


def add_routes(app: web.Application, office: GetOffice, *, checks_only: bool = False) -> None:
    """Add the credential routes to an application. `office` is asked for the office each time; it
    stays the caller's to close. `checks_only`: those that speak for this node, or show its wallet,
    are refused: they are for who has shown a key.
    """
    work = app[WORK] = OfficeWork(office)
    app.on_cleanup.append(work.close)
    for method, routes in (("POST", _POST), ("GET", _GET)):
        for path, handler in routes.items():
            is_refused = checks_only and path in _OWNERS
            app.router.add_route(method, path, _guarded(_refuse if is_refused else handler))


def any_error_response(
    request: web.Request, error: KwaaiError, headers: Mapping[str, str]
) -> web.Response:
    """Return an error for an application that has other routes too: problem details for these."""
    resource = request.match_info.route.resource
    is_ours = resource is not None and resource.canonical in _PATHS
    return (problem_response if is_ours else error_response)(error, headers)


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (CredentialsError, KwaaiError) as error:
            return problem_response(error)

    return guarded


async def _refuse(_: web.Request) -> web.Response:
    raise Unauthorized(
        "this route is for who has the API key, and this node has none: any user of this machine"
        " could sign as the node; name one with --api-key-file, or run: kwaainet credential serve"
    )


async def _issue(request: web.Request) -> web.Response:
    work = request.app[WORK]
    body = parse_body(IssueBody, await read_document(request))
    suite = _suite(request, body.options)
    signed = await work.run(issue_document, body.credential, body.options, suite)
    return json_response({"verifiableCredential": signed}, status=201)


def _suite(request: web.Request, options: IssueOptions) -> Suite:
    named = request.match_info.get("suite")
    wanted = [suite for suite in SUITES if suite == named]
    if named is not None and not wanted:
        raise UserError(f"there is no issuer {named[:40]!r}; there is one for each of {SUITES}")
    chosen = wanted[0] if wanted else options.cryptosuite or SUITE_DEFAULT
    if options.cryptosuite not in (None, chosen):
        raise UserError(
            f"this issuer signs with {chosen}, not {options.cryptosuite}", param="options"
        )
    return chosen


def issue_document(
    office: CredentialOffice, credential: Document, options: IssueOptions, suite: Suite
) -> Document:
    """Sign a credential as this office, which becomes its issuer. Raises CredentialsError.

    The credential must be well formed as it came, issuer included. A VC 2.0 that names no status
    gets one for revocation, unless the options say which, or another of its id was issued before.
    """
    credential = _with_id(credential, options.credentialId)
    view = check_credential(credential)
    issuer = credential["issuer"]
    issuer = {**issuer, "id": office.did} if isinstance(issuer, dict) else office.did
    if options.credentialStatus is not None:
        statuses = tuple(wish.statusPurpose for wish in options.credentialStatus)
    else:
        bare = view.version == "2.0" and "credentialStatus" not in credential
        is_new = view.id is None or office.issued.get(view.id) is None
        statuses = ("revocation",) if bare and is_new else ()
    return office.sign(
        {**credential, "issuer": issuer},
        suite=suite,
        statuses=statuses,
        created_s=_time(options.created),
        expires_s=_time(options.expires),
    )


def _with_id(credential: Document, wanted: str | None) -> Document:
    if wanted is None:
        return credential
    if credential.get("id", wanted) != wanted:
        raise ModelInvalid(f"the credential has another id than options.credentialId {wanted!r}")
    return {**credential, "id": wanted}


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except CredentialsError as error:
        raise ProofNotMade(str(error)) from error


async def _verify(request: web.Request) -> web.Response:
    work = request.app[WORK]
    body = parse_body(VerifyBody, await read_document(request))
    options, checks = body.options, checks_of(body.options.checks)

    def verify(office: CredentialOffice) -> VerifiedCredential:
        verified = office.verify(body.verifiableCredential, checks=checks)
        expect(verified.proofs, options)
        require_contexts(verified, checks)
        return verified

    try:
        verified = await work.run(verify)
    except CredentialsError as error:
        return refused_response(error, checks)
    return json_response(credential_answer(verified, checks, options))


async def _verify_presentation(request: web.Request) -> web.Response:
    work = request.app[WORK]
    body = parse_body(VerifyPresentationBody, await read_document(request))
    options, checks = body.options, checks_of(body.options.checks)

    def verify(office: CredentialOffice) -> VerifiedPresentation:
        verified = office.verify_presentation(
            body.verifiablePresentation,
            challenge=options.challenge,
            domain=options.domain,
            holder_must_be_subject=options.holderMustBeSubject,
            checks=checks,
        )
        for proof in verified.proofs:
            expect_purpose(proof, options.expectedProofPurpose)
        require_contexts(verified, checks)
        for held in verified.credentials:
            require_contexts(held, checks)
        return verified

    try:
        verified = await work.run(verify)
    except CredentialsError as error:
        return refused_response(error, checks)
    return json_response(presentation_answer(verified, checks, options))


async def _prove(request: web.Request) -> web.Response:
    work = request.app[WORK]
    body = parse_body(ProveBody, await read_document(request))
    proven = await work.run(
        CredentialOffice.prove,
        body.presentation,
        challenge=body.options.challenge,
        domain=body.options.domain,
        suite=body.options.cryptosuite or SUITE_DEFAULT,
    )
    return json_response({"verifiablePresentation": proven}, status=201)


async def _challenge(request: web.Request) -> web.Response:
    work = request.app[WORK]
    return json_response({"challenge": await work.run(CredentialOffice.new_challenge)})


async def _set_status(request: web.Request) -> web.Response:
    work = request.app[WORK]
    body = parse_body(StatusBody, await read_document(request))

    def change(office: CredentialOffice) -> None:
        for wish in body.credentialStatus:
            on = wish.status if body.status is None else body.status
            office.set_status(wish.statusPurpose, on, id=body.credentialId)

    await work.run(change)
    return json_response({"credentialId": body.credentialId})


async def _status_list(request: web.Request) -> web.Response:
    work = request.app[WORK]
    name = request.match_info["list"]
    try:
        if "timestamp" in request.query:
            raise CredentialMissing(
                "status lists of the past are not kept; ask for the current one"
            )
        signed = await work.run(CredentialOffice.status_list, name)
    except CredentialMissing as error:
        problem = make_problem(STATUS_RETRIEVAL_ERROR, error.message, code=error.code, status=404)
        return response_of(problem)
    media_type = _VC_TYPE if _VC_TYPE in request.headers.get("Accept", "") else "application/json"
    return web.Response(body=signed, content_type=media_type)


async def _list(request: web.Request) -> web.Response:
    work = request.app[WORK]
    body, following = await work.run(_page, dict(request.query))
    headers = {}
    if following is not None:
        query = urlencode({**request.query, "after": str(following)})
        headers["Link"] = f'</credentials?{query}>; rel="next"'
    return web.Response(body=body, headers=headers, content_type="application/json")


async def _show(request: web.Request) -> web.Response:
    work = request.app[WORK]
    name = request.match_info["id"]
    if f"/credentials/{name}" in _POST:
        raise web.HTTPMethodNotAllowed("GET", ["POST"])
    stored = await work.run(lambda office: office.wallet.resolve(name))
    if stored.entry.quarantined:
        raise CredentialMissing("it is in quarantine, as it did not verify")
    return web.Response(body=stored.original, content_type="application/json")


async def _identify(request: web.Request) -> web.Response:
    work = request.app[WORK]
    raw = request.raw_path.partition("?")[0].removeprefix("/1.0/identifiers/")
    experimental = request.query.get("enableExperimentalPublicKeyTypes", "false") == "true"

    def resolve(office: CredentialOffice) -> ResolutionResult:
        return resolution_result(
            unquote(raw),
            office.resolver,
            accept=request.headers.get("Accept"),
            key_format=request.query.get("publicKeyFormat"),
            experimental=experimental,
        )

    result = await work.run(resolve)
    response = web.Response(body=encode_json(result.body), status=result.status)
    response.headers["Content-Type"] = result.content_type
    return response


def _page(office: CredentialOffice, query: dict[str, str]) -> tuple[bytes, int | None]:
    """Return one page of the wallet, newest first, and the cursor of the next one."""
    unknown = sorted(query.keys() - {"type", "issuer", "subject", "limit", "after"})
    if unknown:
        raise UserError(f"unknown parameter {unknown[0][:40]!r}", param=unknown[0][:40])
    limit = min(_number(query, "limit") or limits.VC_LISTED_MAX, limits.VC_LISTED_MAX)
    found = office.wallet.find(
        type=query.get("type"),
        issuer=query.get("issuer"),
        subject=query.get("subject"),
        limit=limit,
        after=_number(query, "after"),
    )
    originals: list[bytes] = []
    for stored in found:
        if sum(map(len, originals)) + len(stored.original) > limits.VC_LISTED_BYTES_MAX:
            break
        originals.append(stored.original)
    is_whole = len(originals) == len(found) < limit
    body = b"[" + b",".join(originals) + b"]"
    return body, None if is_whole or not originals else found[len(originals) - 1].number


def _number(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15) or int(text) < 1:
        raise UserError(f"'{name}' must be a whole number above 0", param=name)
    return int(text)


_POST: dict[str, Handler] = {
    "/credentials/issue": _issue,
    "/issuers/{suite}/credentials/issue": _issue,
    "/credentials/verify": _verify,
    "/credentials/status": _set_status,
    "/presentations/verify": _verify_presentation,
    "/presentations/prove": _prove,
    "/challenges": _challenge,
}
_GET: dict[str, Handler] = {
    "/credentials": _list,
    "/credentials/{id}": _show,
    "/status/{list}": _status_list,
    "/1.0/identifiers/{did:.+}": _identify,
}
_OWNERS = frozenset(
    {
        "/credentials",
        "/credentials/{id}",
        "/credentials/issue",
        "/issuers/{suite}/credentials/issue",
        "/credentials/status",
        "/presentations/prove",
    }
)
"""What speaks for this node, or shows what it holds."""
_PATHS = frozenset(
    {path.replace(":.+", "") for path in (*_POST, *_GET)}  # as aiohttp writes them
)
