"""What `GET /metrics` tells Prometheus. Each application has a registry of its own; label sets are
closed.

Counts and times only: no model names, no prompts, no addresses.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kwaai.node.generate import Finished, Generator

GENERATOR_STATS: dict[str, tuple[str, str]] = {
    "answers": ("counter", "Answers finished, those to the command line included"),
    "answers_failed": ("counter", "Answers that ended in an error, those included"),
    "queue_requests": ("gauge", "Generations waiting for a free slot"),
    "active_sessions": ("gauge", "Sessions that hold KV cells"),
    "kv_tokens": ("gauge", "KV cells in use"),
    "workers": ("gauge", "Worker processes that answer"),
    "worker_restarts": ("counter", "Worker processes started again after a failure"),
    "batches": ("counter", "Batches run"),
    "batch_tokens": ("counter", "Tokens in those batches"),
    "sessions_open": ("gauge", "Sessions of other nodes that hold anything here"),
    "sessions_opened": ("counter", "Sessions opened for other nodes"),
    "sessions_refused": ("counter", "Sessions refused to other nodes"),
    "sessions_failed": ("counter", "Sessions of other nodes that ended in a failure"),
    "hop_steps": ("counter", "Steps run for other nodes"),
    "hop_rows": ("counter", "Rows in those steps"),
    "hop_repeats": ("counter", "Steps that came again and were answered from what is kept"),
    "paths_open": ("gauge", "Sessions of this node on others"),
    "paths_opened": ("counter", "Paths that read their prompt, this machine alone included"),
    "paths_failed": ("counter", "Paths that a peer or this machine broke"),
    "paths_retried": ("counter", "Requests that went on by another path"),
    "circuits": ("gauge", "Paths that are kept open for reuse"),
    "circuit_answers": ("counter", "Answers that were begun on circuits"),
    "circuit_reused_tokens": ("counter", "Tokens of prompts that circuits had read already"),
    "circuit_reroutes": ("counter", "Times that a circuit took another path"),
    "peers_connected": ("gauge", "Peers connected over libp2p"),
    "links_open": ("gauge", "Encrypted links to other nodes"),
    "links_lost": ("counter", "Links that ended while the node ran"),
    "link_handshakes_refused": ("counter", "Connections whose handshake was not let finish"),
    "link_pieces_dropped": ("counter", "Pieces of messages for channels that nobody opened"),
    "peers_misbehaved": ("counter", "Links that were cut for what the peer sent"),
    "records_held": ("gauge", "Fresh records of nodes, this one's included"),
    "records_dropped": ("counter", "Records refused: forged, malformed, old, too many"),
    "service_restarts": ("counter", "Services of the node started again after a failure"),
}
"""Names of `Generator.stats()` that are exported, with kind and help. Others are left out."""

TRUST_STATS: dict[str, tuple[str, str]] = {
    "trust_roots": ("gauge", "Trust roots, this node and its owner included"),
    "trust_credentials": ("gauge", "Credentials that peers presented and that hold"),
    "trust_observations": ("gauge", "Outcomes of dealings with peers that are kept"),
    "trust_observations_dropped": ("counter", "Outcomes that came faster than they are written"),
    "trust_endorsements": ("gauge", "Edges of the trust graph"),
    "trust_recomputes": ("counter", "Times that scores were computed"),
    "trust_recompute_seconds": ("counter", "Time that this took"),
    "receipts_kept": ("gauge", "Receipts whose both halves are here"),
    "receipts_missing": ("gauge", "Receipts without the other side's half"),
    "receipts_contradicting": ("gauge", "Receipts whose halves say different things"),
    "spot_checks": ("counter", "Steps that a second peer repeated"),
    "spot_checks_failed": ("counter", "Those with another result"),
    "witness_peers": ("gauge", "Peers that this node probes, to say how often they answered"),
    "witness_probes": ("counter", "Probes of peers"),
    "witness_issued": ("counter", "Credentials issued for what was measured"),
    "intents_refused": ("counter", "Intents refused: altered, replayed, stale, below a floor"),
}
"""Names of `TrustControl.stats()`, which a node's `Generator.stats()` has too."""

KNOWLEDGE_STATS: dict[str, tuple[str, str]] = {
    "knowledge_bases": ("gauge", "Knowledge bases that are open"),
    "knowledge_bases_broken": ("gauge", "Knowledge bases on this disk that cannot be opened"),
    "storage_tenants": ("gauge", "Tenants whose sealed objects this node hosts"),
    "storage_objects": ("gauge", "Sealed objects of theirs"),
    "storage_used_bytes": ("gauge", "Bytes of them"),
    "storage_free_bytes": ("gauge", "Bytes that this node would still take"),
    "storage_requests": ("counter", "Requests of tenants that were answered"),
    "storage_refused": ("counter", "Requests of tenants and others that were refused"),
    "storage_received_bytes": ("counter", "Bytes of such requests"),
    "storage_sent_bytes": ("counter", "Bytes of the answers"),
    "calls_made": ("counter", "Calls to other nodes over links"),
    "calls_failed": ("counter", "Those that failed"),
}
"""Names of the stats of knowledge and of hosting, in `Generator.stats()` of a node too."""
_ALL_STATS = GENERATOR_STATS | TRUST_STATS | KNOWLEDGE_STATS

LABELLED_STATS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "trust_peers": (
        "gauge",
        "Peers with a score",
        "tier",
        ("unknown", "known", "verified", "trusted"),
    ),
    "trust_denials": (
        "counter",
        "What peers were not let do for their tier",
        "action",
        ("compute",),
    ),
}
"""Families with one label: kind, help, the label's name and values. In `stats()` each value has an
entry of its own: `trust_peers_verified`.
"""

_FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The counters of one application."""

    def __init__(self, generator: Generator) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "kwaai_http_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.errors = Counter("kwaai_errors", "Errors told to clients", ["code"], registry=registry)
        self.active = Gauge(
            "kwaai_active_generations", "Answers under way, queued ones included", registry=registry
        )
        self._tokens = Counter("kwaai_tokens", "Tokens processed", ["kind"], registry=registry)
        self._first_token = Histogram(
            "kwaai_time_to_first_token_seconds",
            "From a request's start to its first token",
            buckets=_FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "kwaai_time_per_token_seconds",
            "Decode time of an answer divided by its tokens",
            buckets=_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._queue = Histogram(
            "kwaai_queue_seconds",
            "Time an answer waited for a free slot and its path",
            buckets=_FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        for kind in ("prompt", "completion"):
            self._tokens.labels(kind)
        registry.register(_GeneratorStats(generator))

    def observe(self, finished: Finished) -> None:
        """Count a completed answer."""
        times = finished.timings
        self._tokens.labels("prompt").inc(finished.prompt_tokens)
        self._tokens.labels("completion").inc(finished.completion_tokens)
        self._queue.observe(times.queue_s)
        if finished.completion_tokens:
            self._first_token.observe(times.first_token_s)
            self._per_token.observe(times.decode_s / finished.completion_tokens)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)


class _GeneratorStats(Collector):
    """Asks the generator at the moment of the scrape."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def collect(self) -> Iterator[Metric]:
        stats = self._generator.stats()
        for name, (kind, explained) in _ALL_STATS.items():
            if name in stats:
                yield _FAMILIES[kind](f"kwaai_{name}", explained, value=stats[name])
        for name, (kind, explained, label, values) in LABELLED_STATS.items():
            counted = {value: stats.get(f"{name}_{value}") for value in values}
            if any(count is not None for count in counted.values()):
                family = _FAMILIES[kind](f"kwaai_{name}", explained, labels=[label])
                for value, count in counted.items():
                    family.add_metric([value], count or 0.0)
                yield family


_FAMILIES: dict[str, type[CounterMetricFamily] | type[GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}
