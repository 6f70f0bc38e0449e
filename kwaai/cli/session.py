"""What most commands begin with: the home, the settings, the log; and how a running one is ended.

Parses no arguments and prints no results.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwaai.config import Config, LoadedConfig
    from kwaai.store.home import Home

EXIT_SIGNAL = 128
"""Plus the signal's number: what a shell reports for a process that a signal ended."""


def load_settings(arguments: argparse.Namespace) -> tuple[Home, LoadedConfig]:
    """Read the settings, with the flags whose destination is a key, and start logging.

    Creates nothing. Raises ConfigError.
    """
    from kwaai.config import KEYS, load_config
    from kwaai.log import configure_logging, get_logger
    from kwaai.store.home import Home, kwaai_home

    home = Home(kwaai_home())
    flags = {key: getattr(arguments, key) for key in KEYS if hasattr(arguments, key)}
    loaded = load_config(home.config_yaml, flags=flags)
    debug = getattr(arguments, "debug", False)
    configure_logging("debug" if debug else loaded.config.log_level)
    log = get_logger(__name__)
    for name in loaded.unknown_variables:
        log.warning("environment_variable_unknown", name=name)
    return home, loaded


def open_home(arguments: argparse.Namespace) -> tuple[Home, Config]:
    """Read the settings as `load_settings` does; make the home's directories too."""
    from kwaai.store.home import ensure_home

    home, loaded = load_settings(arguments)
    return ensure_home(home.path), loaded.config


def run_async(work: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine; SIGINT and SIGTERM cancel it, and it cleans up first.

    Returns its exit code, or 128 plus the signal's number.
    """
    return asyncio.run(_until_signal(work))


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    with _handled(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not received:
                raise
            return EXIT_SIGNAL + received[0]


@contextlib.contextmanager
def _handled(stop: Any) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
