"""Asks the running node about knowledge and hosts, over its Unix socket. See `kwaai.cli.control`;
the routes are in docs/control.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence

from kwaai.cli.control import ControlClient, Json
from kwaai.limits import KNOWLEDGE_CONTROL_TIMEOUT_S


class KnowledgeClient(ControlClient):
    """The running node of a home, and its knowledge."""

    def bases(self) -> list[Json]:
        """Return BaseRows."""
        return list(self._ask("GET", "knowledge", None)["bases"])

    def create(self, base: str, mode: str, *, fulltext_only: bool) -> Generator[Json, None, None]:
        """Yield `progress` while a model is fetched, then `done` with the new `base`, a BaseRow."""
        body = {"base": base, "mode": mode, "fulltext_only": fulltext_only}
        return self._stream("knowledge/create", body, "done")

    def ingest(
        self, base: str, paths: Sequence[str], options: Mapping[str, object]
    ) -> Generator[Json, None, None]:
        """Yield `progress`, then `ingested`: an IngestView."""
        body = {"base": base, "paths": list(paths), **options}
        return self._stream("knowledge/ingest", body, "ingested")

    def search(self, base: str, text: str, count: int, *, explain: bool) -> Json:
        """Return a SearchView."""
        body = {"base": base, "text": text, "count": count, "explain": explain}
        return self._ask("POST", "knowledge/search", body, KNOWLEDGE_CONTROL_TIMEOUT_S)

    def documents(self, base: str) -> Json:
        """Return `documents` (DocumentRows) and how many are `left_out`."""
        return self._ask("POST", "knowledge/documents", {"base": base})

    def delete_document(self, base: str, document: str) -> int:
        """Delete a document; return its passages."""
        body = {"base": base, "document": document}
        answer = self._ask("POST", "knowledge/delete-document", body, KNOWLEDGE_CONTROL_TIMEOUT_S)
        return int(answer["passages"])

    def export(self, base: str, path: str) -> Json:
        """Write every passage to a file; return how many `passages`, and how many are `missing`."""
        return self._long("knowledge/export", {"base": base, "path": path})

    def destroy(self, base: str) -> list[str]:
        """Delete a base, here and at its hosts; return the hosts that could not be asked."""
        return list(self._long("knowledge/destroy", {"base": base})["left_at"])

    def restore(self, base: str, *, thin: bool = False) -> list[Json]:
        """Bring bases back from hosts, `thin`: without their indexes; return their BaseRows."""
        return list(self._long("knowledge/restore", {"base": base, "thin": thin})["bases"])

    def thin(self, base: str, *, off: bool = False) -> Json:
        """Make the cells of a base for thin clients, or delete them; return its BaseRow."""
        return Json(self._long("knowledge/thin", {"base": base, "off": off})["base"])

    def share(self, base: str, reader: str, days: float) -> str:
        """Return a token for a reader."""
        body = {"base": base, "reader": reader, "days": days}
        answer = self._ask("POST", "knowledge/share", body, KNOWLEDGE_CONTROL_TIMEOUT_S)
        return str(answer["token"])

    def attach(self, token: str, name: str = "") -> Json:
        """Open a base by a token, to be called `name`; return its BaseRow."""
        return Json(self._long("knowledge/attach", {"token": token, "name": name})["base"])

    def vpk_status(self) -> Json:
        """Return a VpkView."""
        return self._ask("GET", "vpk", None)

    def resolve(self, base: str) -> list[Json]:
        """Return HostUses."""
        return list(self._ask("POST", "vpk/resolve", {"base": base})["hosts"])

    def audit(self, base: str) -> list[Json]:
        """Return AuditRows."""
        return list(self._long("vpk/audit", {"base": base})["hosts"])

    def repair(self, base: str, hosts: int = 0) -> Json:
        """Return a RepairView. `hosts`: at how many the base is to be; 0: as many as it is."""
        return self._long("vpk/repair", {"base": base, "hosts": hosts})

    def discover(self) -> list[Json]:
        """Return HostRows."""
        return list(self._long("vpk/discover", {})["hosts"])

    def tenants(self) -> list[Json]:
        """Return TenantRows."""
        return list(self._long("vpk/tenants", {})["tenants"])

    def create_tenant(self, peer: str, quota_mb: int) -> Json:
        """Ask a host for room; return a TenantRow."""
        return self._long("vpk/tenants/create", {"peer": peer, "quota_mb": quota_mb})

    def delete_tenant(self, peer: str) -> None:
        """Delete all that this node has at a host."""
        self._long("vpk/tenants/delete", {"peer": peer})

    def _long(self, route: str, body: Json) -> Json:
        """Return the `done` of what takes long."""
        with contextlib.closing(self._stream(route, body, "done")) as events:
            for event in events:
                return {key: value for key, value in event.items() if key != "event"}
        return {}
