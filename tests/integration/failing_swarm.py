"""A swarm of real processes whose nodes a test kills, freezes and starts again, and its questions.

What a test may expect of such a swarm is here too: nothing hangs, nothing is left, words are right
or an error says who is at fault. Which moment fails is the test's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import psutil

from kwaai.cli.control import ControlClient
from kwaai.config import Config
from kwaai.models.library import DEMO_NAME
from kwaai.node import daemon
from kwaai.node.swarm import SwarmNode, SwarmPlan, find_nodes, plan_swarm, start_swarm, stop_swarm
from kwaai.store.home import Home
from kwaai.types import LayerRange

ANSWER_S = 15.0
"""From a failure to the end of every request that it touches."""
SETTLE_S = 12.0
"""From the last answer until no node holds anything: a silent requester is given up after 6 s."""
HEALTHY_S = 40.0
END_TOKEN = "2"
"""Of the demonstration model."""
_POLL_S = 0.05
Value = TypeVar("Value")


async def until(
    holds: Callable[[], Awaitable[Value]], what: Callable[[], str] | str, timeout_s: float
) -> Value:
    """Ask again and again until something holds, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (value := await holds()):
        told = what if isinstance(what, str) else what()
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {told}"
        await asyncio.sleep(_POLL_S)
    return value


@dataclass(frozen=True)
class Question:
    """A prompt as tokens, and how many tokens the answer has."""

    prompt: tuple[int, ...]
    max_tokens: int

    def body(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "logit_bias": {END_TOKEN: -100},  # or an answer is over before anything can fail
        }


@dataclass
class Reply:
    """What came of one question. Either `finish` or `error` says how it ended."""

    text: str = ""
    finish: str = ""
    chunks: int = 0
    status: int = 0
    error: str = ""
    code: str = ""
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        return bool(self.finish) and not self.error


OnChunk = Callable[[int], None]


class Client:
    """Asks one node's API, streaming."""

    def __init__(self, api: str, model: str) -> None:
        self.api, self.model = api, model
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=60),
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, question: Question, on_chunk: OnChunk = lambda count: None) -> Reply:
        """Return how a question ended. `on_chunk` hears of every piece of text as it comes."""
        reply, started = Reply(), time.monotonic()
        try:
            await self._ask(question, reply, on_chunk)
        except (aiohttp.ClientError, ConnectionError) as error:
            reply.error, reply.code = repr(error), "connection"
        if not reply.finish and not reply.error:
            reply.error, reply.code = "the stream ended without a word", "cut"
        reply.seconds = time.monotonic() - started
        return reply

    async def _ask(self, question: Question, reply: Reply, on_chunk: OnChunk) -> None:
        body, is_done = question.body(self.model), False
        async with self._session.post(f"{self.api}/completions", json=body) as response:
            reply.status = response.status
            if response.status != 200:
                self._fail(reply, await response.json())
                return
            async for line in response.content:
                data = line.removeprefix(b"data: ").strip()
                if not data:
                    continue
                if data == b"[DONE]":
                    is_done = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    self._fail(reply, event)
                    return
                for choice in event["choices"]:
                    reply.text += choice["text"]
                    if choice["finish_reason"] is not None:
                        reply.finish = choice["finish_reason"]
                    else:
                        reply.chunks += 1
                        on_chunk(reply.chunks)
        if not is_done:
            reply.finish = ""

    @staticmethod
    def _fail(reply: Reply, body: Mapping[str, Any]) -> None:
        reply.error, reply.code = body["error"]["message"], body["error"]["code"]

    async def health(self) -> dict[str, Any]:
        async with self._session.get(f"{self.api.removesuffix('/v1')}/health") as response:
            told: dict[str, Any] = await response.json()
            return told

    async def metrics(self) -> dict[str, float]:
        """Return /metrics without labels, by name."""
        root = self.api.removesuffix("/v1")
        async with self._session.get(f"{root}/metrics") as response:
            lines = (await response.text()).splitlines()
        rows = (line.split() for line in lines if line and line[0] != "#" and "{" not in line)
        return {name.removeprefix("kwaai_"): float(value) for name, value in rows}


async def whole_answers(home: Home, questions: Iterable[Question]) -> dict[Question, Reply]:
    """Return what a node that is alone with the whole model answers."""
    arguments = ("--port=0", "--api-port=0", "--listen-host=127.0.0.1", "--no-mdns")
    report = await asyncio.to_thread(daemon.spawn, home, arguments)
    client = Client(report["api"], DEMO_NAME)
    try:
        replies = {question: await client.ask(question) for question in questions}
    finally:
        await client.close()
        os.kill(report["pid"], signal.SIGTERM)
    running = daemon.find_running(home)
    if running is not None:
        assert await asyncio.to_thread(daemon.wait_ended, running, 20.0)
    assert all(reply.is_whole and reply.text for reply in replies.values()), replies
    return replies


@dataclass
class Member:
    """One node of the swarm."""

    node: SwarmNode
    layers: LayerRange | None
    report: dict[str, Any]
    client: Client
    is_frozen: bool = False
    is_dead: bool = False
    rss: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def peer(self) -> str:
        return str(self.report["peer"])

    @property
    def pid(self) -> int:
        return int(self.report["pid"])

    @property
    def is_up(self) -> bool:
        return not self.is_dead and not self.is_frozen

    def is_named_in(self, text: str) -> bool:
        return self.peer in text


class FailingSwarm:
    """The first member asks; the others serve `ranges`, some of them perhaps twice."""

    def __init__(self, home: Home, ranges: Sequence[LayerRange]) -> None:
        self.home, self.ranges = home, tuple(ranges)
        self.members: list[Member] = []

    async def start(self) -> None:
        plan = plan_swarm(self.home, DEMO_NAME, 2)
        plan = SwarmPlan(plan.model, plan.block_count, self.ranges)
        config = Config(context_tokens=512, threads=1, max_sessions=4)
        reports = await asyncio.to_thread(start_swarm, self.home, config, plan, lambda _: None)
        by_name = {report["name"]: report for report in reports}
        for node, layers in zip(find_nodes(self.home), (None, *self.ranges), strict=True):
            report = by_name[node.name]
            self.members.append(Member(node, layers, report, Client(report["api"], DEMO_NAME)))
        await self.healthy()

    async def stop(self) -> None:
        for member in self.members:
            await member.client.close()
            if member.is_frozen:
                self.thaw(member)
        await asyncio.to_thread(stop_swarm, self.home)

    @property
    def asker(self) -> Member:
        return self.members[0]

    @property
    def hops(self) -> list[Member]:
        return self.members[1:]

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    # What happens to nodes.

    def kill(self, member: Member) -> None:
        os.kill(member.pid, signal.SIGKILL)
        member.is_dead = True

    def freeze(self, member: Member) -> None:
        os.kill(member.pid, signal.SIGSTOP)
        member.is_frozen = True

    def thaw(self, member: Member) -> None:
        os.kill(member.pid, signal.SIGCONT)
        member.is_frozen = False

    async def restart(self, member: Member) -> None:
        """Start a node that was killed, as its owner would."""

        async def is_gone() -> bool:
            return not daemon.is_claimed(member.node.home)

        await until(is_gone, f"{member.name} is gone", 5.0)
        member.report = await asyncio.to_thread(daemon.spawn, member.node.home)
        member.is_dead = False
        await member.client.close()
        member.client = Client(member.report["api"], DEMO_NAME)

    # What the asking node thinks.

    async def peers(self) -> dict[str, dict[str, Any]]:
        """Return what `p2p peers` shows at the asking node, by the peer's name."""
        rows = await asyncio.to_thread(ControlClient(self.asker.node.home).peers)
        return {row["name"]: row for row in rows if row["name"]}

    async def avoided(self) -> set[str]:
        """Return the names of peers that the asking node leaves alone now."""
        return {name for name, row in (await self.peers()).items() if row["avoided_s"] > 0}

    async def last_path(self) -> str:
        """Return the path of the asking node's last answer."""
        return str((await self.asker.client.health()).get("path", ""))

    async def has_path(self) -> bool:
        """Whether every range has a node that is up, announced and not avoided."""
        rows = await self.peers()
        good = {
            member.layers
            for member in self.hops
            if member.is_up
            and (row := rows.get(member.name)) is not None
            and not row["avoided_s"]
            and any(text.endswith(" online") for text in row["served"])
        }
        return good == set(self.ranges)

    async def healthy(self, *, all_of_them: bool = True) -> None:
        """Wait until all nodes are up and announced, and none (or none that is needed) avoided."""
        said = ""

        async def is_healthy() -> bool:
            nonlocal said
            rows = await self.peers()
            bad = [
                member.name
                for member in self.hops
                if (row := rows.get(member.name)) is None
                or not any(text.endswith(" online") for text in row["served"])
                or (all_of_them and row["avoided_s"] > 0)
            ]
            said = f"not announced, or avoided: {bad}"
            return not bad and await self.has_path()

        await until(is_healthy, lambda: said, HEALTHY_S)

    async def settled(self, timeout_s: float = SETTLE_S) -> None:
        """Wait until no node that is up holds anything of a session."""
        left: dict[str, dict[str, float]] = {}

        async def is_settled() -> bool:
            left.clear()
            for member in self.members:
                if member.is_up:
                    told = await member.client.metrics()
                    names = ("sessions_open", "active_sessions", "paths_open", "queue_requests")
                    held = {name: told[name] for name in names if told[name]}
                    if held:
                        left[member.name] = held
            return not left

        await until(is_settled, lambda: f"sessions are left: {left}", timeout_s)

    def note_memory(self) -> None:
        for member in self.members:
            if member.is_up:
                member.rss.append(psutil.Process(member.pid).memory_info().rss)

    def log_tail(self, lines: int = 12) -> str:
        """Return the end of every node's log: what a failed test needs."""
        parts = []
        for member in self.members:
            log = member.node.home.log_file
            text = log.read_text("utf-8", "replace") if log.exists() else ""
            told = [line for line in text.splitlines() if "request_served" not in line]
            parts.append("\n".join([f"-- {member.name} {member.peer}", *told[-lines:]]))
        return "\n".join(parts)
