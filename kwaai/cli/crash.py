"""An unexpected exception: its traceback goes to the node's log file, one line to the user.

Used once, at the program's boundary. Does not end the process.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from kwaai import __version__, limits
from kwaai.errors import KwaaiError


def report_crash(error: Exception, *, debug: bool) -> str:
    """Keep the traceback and return the one line that says what happened and where it is."""
    text = "".join(traceback.format_exception(error))
    summary = f"unexpected {type(error).__name__}: {error}"
    if debug:
        sys.stderr.write(text)
        return summary
    try:
        path = _append(text)
    except (OSError, KwaaiError):
        return f"{summary}; run again with --debug for the traceback"
    return f"{summary}; this is a defect of kwaainet, its traceback is in {path} (or use --debug)"


def _append(text: str) -> Path:
    from kwaai.store.home import ensure_home, kwaai_home

    path = ensure_home(kwaai_home()).log_file
    if path.exists() and path.stat().st_size > limits.LOG_BYTES_MAX:
        os.replace(path, path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "a", encoding="utf-8", errors="replace") as file:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        file.write(f"{stamp} ERROR kwaai.cli process_failed version={__version__}\n{text}\n")
    return path
