"""One step of `vpk bench` in a process of its own: its memory, and its start, are its own.

`python -m kwaai.node.bench_vpk_worker` reads a task as JSON from its standard input and writes what
it found, as JSON in the last line, to its standard output. `run_step` is the other end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kwaai.errors import KwaaiError, ResourceError
from kwaai.limits import VPK_BENCH_STEP_TIMEOUT_S

_TAIL_CHARS = 800


async def run_step(
    what: str, task: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Do a step in a process of its own: `flat`, `hnsw`, `chroma`, `ingest` or `open`. Raises
    ResourceError where it fails, with its last words.
    """
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, what),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
    )
    try:
        async with asyncio.timeout(VPK_BENCH_STEP_TIMEOUT_S):
            output, said = await process.communicate(json.dumps(task).encode())
    except TimeoutError:
        raise ResourceError(f"{what}: not done in {VPK_BENCH_STEP_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ResourceError(f"{what}: {said.decode('utf-8', 'replace')[-_TAIL_CHARS:].strip()}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found | {"process_s": time.perf_counter() - started}


def _main(what: str) -> int:
    task = json.load(sys.stdin)
    try:
        print(json.dumps(_do(what, task)))
    except KwaaiError as error:
        print(f"{type(error).__name__}: {error.message}", file=sys.stderr)
        return 1
    return 0


def _do(what: str, task: Mapping[str, Any]) -> dict[str, Any]:
    if what in ("ingest", "open"):
        from kwaai.node.bench_vpk_bob import BobTask, ingest_and_search, open_and_search

        step = ingest_and_search if what == "ingest" else open_and_search
        return asyncio.run(step(BobTask.from_json(task)))
    from kwaai.node.bench_vpk_data import load_saved
    from kwaai.node.bench_vpk_plain import measure_plain

    return measure_plain(what, load_saved(Path(task["data"])), Path(task["directory"]))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
