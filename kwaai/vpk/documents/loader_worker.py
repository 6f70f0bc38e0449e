"""The program of the process that reads documents: whatever a file does to a parser happens here.

`python -m kwaai.vpk.documents.loader_worker SOCKET`. A request is a JSON line with the file's name
and, beside it, its open descriptor; the reply is two lengths, a JSON header and the text. The
process has bounded memory, and may write no file. It does not need the rest of the program, or a
network, but nothing forbids those to a parser that was taken over. docs/knowledge.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import socket
import struct
import sys
import warnings
from typing import Any

from kwaai.errors import DocumentInvalid
from kwaai.limits import LOADER_MEMORY_BYTES, LOADER_NAME_CHARS_MAX
from kwaai.vpk.documents.document import BLOCK_KINDS, Document

REPLY = struct.Struct("<II")
"""Bytes of the header, bytes of the text."""
REQUEST_BYTES_MAX = 8 * LOADER_NAME_CHARS_MAX
PARSER_RECURSION = 1000


def limit_process() -> None:
    """Give up what reading does not need: memory beyond a bound, files to write, core dumps."""
    bounds = (
        (resource.RLIMIT_AS, LOADER_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    )
    for what, bound in bounds:
        _, hard = resource.getrlimit(what)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not bound address space
            resource.setrlimit(what, (bound, bound))
    with contextlib.suppress(OSError):
        os.nice(5)  # whoever waits for an answer of the node goes first


def read(descriptor: int, name: str) -> tuple[bytes, bytes]:
    """Read one file; return the header and the text of the reply."""
    from kwaai.vpk.documents.load import load_document

    try:
        with os.fdopen(descriptor, "rb") as file:
            return encode_document(load_document(file, name))
    except DocumentInvalid as error:
        return _failure(error.message), b""
    except MemoryError:
        return _failure("reading it takes more memory than a file may have"), b""
    except Exception as error:  # the boundary of the process: parsers raise what they like
        why = f"{type(error).__name__}: {error}"[:300]
        return _failure(f"its reader failed, so it is broken or unusual ({why})"), b""


def encode_document(document: Document) -> tuple[bytes, bytes]:
    """Return a document as the header and the text of a reply."""
    headings: dict[tuple[str, ...], int] = {}
    blocks = [
        [
            BLOCK_KINDS.index(block.kind),
            block.start,
            block.stop,
            headings.setdefault(block.heading, len(headings)),
            block.page,
        ]
        for block in document.blocks
    ]
    header = {
        "blocks": blocks,
        "headings": list(headings),
        "media_type": document.media_type,
        "title": document.title,
        "problems": document.problems,
    }
    return json.dumps(header, separators=(",", ":")).encode(), document.text.encode("utf-8")


def serve(sock: socket.socket) -> int:
    """Answer requests until the other end closes."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(sock, REQUEST_BYTES_MAX, 1)
        if not data:
            return 0
        request: Any = json.loads(data)
        header, text = read(descriptors[0], request["name"])
        sock.sendall(REPLY.pack(len(header), len(text)))
        sock.sendall(header)
        sock.sendall(text)


def main() -> int:
    """Entry point of the process. Ends quietly when the node does."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # pypdf tells of every oddity
    limit_process()
    sys.setrecursionlimit(PARSER_RECURSION)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        try:
            return serve(sock)
        except (BrokenPipeError, ConnectionResetError):
            return 0


def _failure(reason: str) -> bytes:
    return json.dumps({"invalid": reason}).encode()


if __name__ == "__main__":
    sys.exit(main())
