"""Who is at fault when a session along hops fails: what peers say, as errors that a person can use.

A hop may name itself or a hop beside it, and no code but those of failures between nodes: its words
are shown. Of a hop and the one that it names either may be at fault, so the error names both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from credentials.keys import PeerId
from kwaai.errors import (
    Busy,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
)
from kwaai.wire.codec import WireError
from kwaai.wire.messages import Failed, Refused, RefusedReason

_KINDS: Mapping[str, type[PeerError]] = {
    kind.code: kind for kind in (PeerLost, PeerMisbehaved, PeerRefused, PeerStalled)
} | {WireError.code: PeerMisbehaved, Busy.code: PeerRefused}
_RETRY_S_MAX = 60.0
_REMEDY = "send the request again: another path is taken where there is one"


class Blame:
    """Makes the errors of one path. Every one names the peer, by name and id, and the reason."""

    def __init__(self, hops: Sequence[PeerId], names: Mapping[PeerId, str]) -> None:
        self._hops, self._names = tuple(hops), names

    def name(self, peer: PeerId) -> str:
        """Return what a person calls a peer."""
        name = self._names.get(peer)
        return f"{name} ({peer})" if name else str(peer)

    def error(
        self,
        kind: type[PeerError],
        peer: PeerId,
        what: str,
        retry_after_s: float | None = None,
        accuser: PeerId | None = None,
    ) -> PeerError:
        """Return an error that names `peer`."""
        message = f"{self.name(peer)} {what}; {_REMEDY}"
        return kind(message, peer=peer, retry_after_s=retry_after_s, accuser=accuser)

    def own(self, error: PeerError, peer: PeerId) -> PeerError:
        """Return an error that this node met while it talked to `peer`, in the same words."""
        kind = type(error) if type(error) in _KINDS.values() else PeerError
        if isinstance(error, PeerUnreachable):
            kind = PeerUnreachable
        return self.error(kind, peer, f"failed: {error.message}")

    def refused(self, refused: Refused, hop: PeerId) -> PeerError:
        """Return why a hop does not take part."""
        reason = refused.reason.name.lower().replace("_", " ")
        retry_s = _seconds(refused.retry_after_ms)
        if refused.reason is RefusedReason.UNREACHABLE_NEXT and refused.hop + 1 < len(self._hops):
            following = self._hops[refused.hop + 1]
            what = f"cannot be reached by {self.name(hop)}: {refused.message}"
            return self.error(PeerUnreachable, following, what, retry_s, accuser=hop)
        what = f"refuses ({reason}): {refused.message}"
        return self.error(PeerRefused, hop, what, retry_s)

    def failed(self, failed: Failed, reporter: PeerId) -> PeerError:
        """Return why a hop ends its session: by its own fault, or, it says, by a neighbour's.

        When it may be asked again is for this node to say: it has taken the session, and broken it.
        """
        kind = _KINDS.get(failed.code, PeerError)
        at = self._hops.index(reporter)
        if failed.culprit not in self._hops[max(0, at - 1) : at] + self._hops[at + 1 : at + 2]:
            what = f"failed at step {failed.step} ({failed.code}): {failed.message}"
            return self.error(kind, reporter, what)
        what = f"failed at step {failed.step}, says {self.name(reporter)}: {failed.message}"
        return self.error(kind, failed.culprit, what, accuser=reporter)


def _seconds(milliseconds: int) -> float | None:
    return min(milliseconds / 1000, _RETRY_S_MAX) or None
