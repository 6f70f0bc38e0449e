"""The messages in which nodes ask for, offer, deliver and show credentials, and for status lists.

Pure: bytes and values, one request and one answer. What a credential says is not looked at here
(`credentials.verify` does); only lengths are. docs/protocol/credentials.md has the formats byte by
byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kwaai import limits
from kwaai.wire.codec import Reader, WireError, Writer

PROTOCOL: Final = "/kwaai/credentials/1.0.0"
REQUEST_ID_BYTES: Final = 16

State: TypeAlias = Literal["pending", "issued", "refused", "unknown"]
_STATES: Final[tuple[State, ...]] = ("pending", "issued", "refused", "unknown")


@dataclass(frozen=True, slots=True)
class Ask:
    """Please issue me a credential. The subject is whoever asks: its PeerId is proven."""

    id: bytes
    """16 random bytes of the asker: the same request twice is one request."""
    kind: str
    """`UptimeVC` and so on."""
    claims: bytes
    """A JSON object: what the asker would like it to say."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Collect:
    """What became of my request?"""

    id: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """Here is what you asked me for. The answer says whether it was kept."""

    id: bytes
    credential: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """Here is a credential about you that you did not ask for. Its owner decides."""

    id: bytes
    credential: bytes
    note: str = ""


@dataclass(frozen=True, slots=True)
class Show:
    """Present what you hold of these types (all, if none is named), for my challenge."""

    challenge: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchStatus:
    """The status list at this URL, please."""

    url: str


Request: TypeAlias = Ask | Collect | Deliver | Offer | Show | FetchStatus


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request or an offer stands. `credential` is there when it was issued to the asker."""

    state: State
    reason: str = ""
    credential: bytes = b""


@dataclass(frozen=True, slots=True)
class Document:
    """A presentation or a status list; empty where there is none."""

    data: bytes


def encode_request(request: Request) -> bytes:
    """Encode a request."""
    writer = Writer()
    match request:
        case Ask():
            writer.uint(1, 1).fixed(request.id, REQUEST_ID_BYTES).text(request.kind)
            writer.blob(request.claims).text(request.note, 2)
        case Collect():
            writer.uint(2, 1).fixed(request.id, REQUEST_ID_BYTES)
        case Deliver():
            writer.uint(3, 1).fixed(request.id, REQUEST_ID_BYTES).blob(request.credential, 4)
        case Offer():
            writer.uint(4, 1).fixed(request.id, REQUEST_ID_BYTES).blob(request.credential, 4)
            writer.text(request.note, 2)
        case Show():
            writer.uint(5, 1).text(request.challenge).uint(len(request.kinds), 1)
            for kind in request.kinds:
                writer.text(kind)
        case FetchStatus():
            writer.uint(6, 1).text(request.url, 2)
    return writer.finish()


def parse_request(data: bytes) -> Request:
    """Parse a request. Raises WireError."""
    reader = Reader(data)
    number = reader.uint(1)
    request = _parse_request(number, reader)
    reader.finish()
    return request


def _parse_request(number: int, reader: Reader) -> Request:
    match number:
        case 1:
            return Ask(
                reader.fixed(REQUEST_ID_BYTES),
                _kind(reader),
                reader.blob(most=limits.CREDENTIAL_CLAIMS_BYTES_MAX),
                _note(reader),
            )
        case 2:
            return Collect(reader.fixed(REQUEST_ID_BYTES))
        case 3:
            return Deliver(reader.fixed(REQUEST_ID_BYTES), _credential(reader))
        case 4:
            return Offer(reader.fixed(REQUEST_ID_BYTES), _credential(reader), _note(reader))
        case 5:
            challenge = reader.text(most=limits.CHALLENGE_CHARS_MAX)
            if len(challenge) < limits.CHALLENGE_CHARS_MIN:
                raise WireError(f"a challenge has {len(challenge)} characters: it can be guessed")
            count = reader.uint(1, most=limits.CREDENTIAL_KINDS_MAX)
            return Show(challenge, tuple(_kind(reader) for _ in range(count)))
        case 6:
            return FetchStatus(reader.text(2, most=limits.STATUS_URL_CHARS_MAX))
        case _:
            raise WireError(f"there is no request {number} about credentials")


def encode_answer(answer: Answer) -> bytes:
    """Encode how a request stands."""
    writer = Writer().uint(_STATES.index(answer.state), 1).text(answer.reason, 2)
    return writer.blob(answer.credential, 4).finish()


def parse_answer(data: bytes) -> Answer:
    """Parse the answer to Ask, Collect, Deliver or Offer. Raises WireError."""
    reader = Reader(data)
    state = _STATES[reader.uint(1, most=len(_STATES) - 1)]
    answer = Answer(state, _note(reader), _credential(reader))
    reader.finish()
    return answer


def encode_document_answer(document: Document) -> bytes:
    """Encode a presentation or a status list."""
    return Writer().blob(document.data, 4).finish()


def parse_document_answer(data: bytes) -> Document:
    """Parse the answer to Show or FetchStatus. Raises WireError."""
    reader = Reader(data)
    document = Document(_credential(reader))
    reader.finish()
    return document


def _kind(reader: Reader) -> str:
    return reader.text(most=limits.CREDENTIAL_KIND_CHARS_MAX)


def _note(reader: Reader) -> str:
    return reader.text(2, most=limits.CREDENTIAL_NOTE_BYTES_MAX)


def _credential(reader: Reader) -> bytes:
    return reader.blob(4, most=limits.CREDENTIAL_MESSAGE_BYTES_MAX)
