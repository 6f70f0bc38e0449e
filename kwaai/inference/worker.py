"""The program of one worker process: serve one slice over a socket until the node goes away.

`python -m kwaai.inference.worker SOCKET MEMORY` with two inherited descriptors. It exists because
ggml ends the process on bad input: a crash here costs one slice, not the node. Sequential on
purpose: the node makes batches.

The first request says what to load; the others are for what was loaded (`slice_worker`,
`text_worker`, `stock`). A reply is `{"ok": true, ...}` or `{"error": {code, message, param}}`.
"""

from __future__ import annotations

import gc
import mmap
import os
import socket
import sys
import traceback
from typing import Any

from kwaai.errors import KwaaiError, UserError
from kwaai.inference import ipc
from kwaai.limits import TRACEBACK_CHARS_MAX


def _make_worker(header: ipc.Header) -> Any:
    """Load what the first request asks for: a slice, or the model's text side."""
    role = header.get("role")
    if role == "slice":
        from kwaai.inference.slice_worker import SliceWorker

        return SliceWorker(header["spec"], header["engine"])
    if role == "text":
        from kwaai.inference.text_worker import TextWorker

        return TextWorker(header["path"], header["template"])
    if role == "embedding":
        from kwaai.inference.embedding_worker import EmbeddingWorker

        return EmbeddingWorker(**header["embedding"])
    if role == "stock":
        from kwaai.inference.stock import StockModel

        return StockModel(**header["stock"])
    raise UserError(f"no worker has the role {role!r}", param="role")


def _error_reply(error: KwaaiError) -> ipc.Header:
    return {"error": {"code": error.code, "message": error.message, "param": error.param}}


def serve(stream: ipc.FrameSocket) -> int:
    """Answer requests until the other end closes; return the process's exit code."""
    header, _ = stream.receive()
    try:
        worker = _make_worker(header)
    except KwaaiError as error:
        stream.send(_error_reply(error))
        return 1
    # The boundary of the process: the node hears the reason, then the process ends.
    except Exception as error:
        message = f"{type(error).__name__}: {error}"[:TRACEBACK_CHARS_MAX]
        stream.send({"error": {"code": "worker_lost", "message": message, "param": None}})
        return 1
    stream.send({"ok": True, "pid": os.getpid(), **getattr(worker, "info", {})})
    # What is loaded stays: the collector need not look at it again and again between two passes.
    gc.collect()
    gc.freeze()
    while True:
        try:
            header, payload = stream.receive()
        except EOFError:
            return 0
        try:
            reply, data = worker.handle(header, payload)
        except KwaaiError as error:
            reply, data = _error_reply(error), b""
        text = reply if isinstance(reply, bytes) else ipc.encode_header(reply)
        stream.send_encoded(text, data)


def main() -> int:
    """Entry point of the process. Ends quietly when the node does."""
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        shared = mmap.mmap(int(sys.argv[2]), 0)
        return _run(ipc.FrameSocket(sock, shared))


def _run(stream: ipc.FrameSocket) -> int:
    try:
        return serve(stream)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return 0
    except Exception:  # the boundary of the process: the supervisor reads the last line
        traceback.print_exc()
        return 70


if __name__ == "__main__":
    sys.exit(main())
