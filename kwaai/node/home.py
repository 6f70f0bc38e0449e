"""What this machine can do of a model by itself, and how fast: one end of every path.

Speeds are those of slices that run here; until one runs, memory bandwidth is guessed. Loads nothing
and chooses nothing: `kwaai.placement.paths` does.
"""

from __future__ import annotations

from collections.abc import Callable

from kwaai.config import Config
from kwaai.errors import KwaaiError
from kwaai.limits import DECODE_BLOCK_S_GUESS, DECODE_BYTES_S_GUESS, DECODE_PASS_S_GUESS
from kwaai.models import footprint
from kwaai.models.gguf import GGUFHeader
from kwaai.node.local_slices import LoadedSlice, LocalSlices
from kwaai.node.plan import available_bytes
from kwaai.node.slice_plan import LocalModel, check_memory
from kwaai.placement.paths import HomePart
from kwaai.types import LayerRange


def home_part(model: LocalModel, slices: LocalSlices, config: Config) -> HomePart:
    """Return what this machine can do of `model` now."""
    loaded = [row for row in slices.loaded() if row.host is not None]
    mine = [row for row in loaded if row.model.handle == model.handle]
    available = _available_bytes(loaded, model, config)
    bytes_s, overhead_s = _bytes_per_second(loaded)
    measured = {row.layers: decode_s for row in mine if (decode_s := _decode_s(row)) > 0}
    header = model.entry.header
    blocks = footprint.block_bytes(header)
    block_s = sum(blocks) / max(1, len(blocks)) / bytes_s + overhead_s
    head_s = footprint.head_bytes(header) / bytes_s
    if not model.entry.whole:
        held = sum(len(layers) for layers in model.held)
        return HomePart(block_s, head_s, held, None, DECODE_PASS_S_GUESS, measured)
    whole = LayerRange(0, model.block_count)
    alone_s = measured.get(whole)
    runs = any(row.layers == whole for row in mine)
    if alone_s is None and (runs or _fits(model, whole, available)):
        alone_s = DECODE_PASS_S_GUESS + block_s * model.block_count + head_s
    most = min(blocks_max(model, available), config.home_blocks or model.block_count)
    return HomePart(block_s, head_s, most, alone_s, DECODE_PASS_S_GUESS, measured)


def blocks_max(model: LocalModel, available: int) -> int:
    """Return how many blocks of a model fit into `available` bytes here, with KV and buffers."""
    if not model.entry.whole:
        return max((len(layers) for layers in model.held), default=0)
    low, high = 0, model.block_count
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(model, LayerRange(0, middle), available):
            low = middle
        else:
            high = middle - 1
    return low


def memory_blocks(config: Config) -> Callable[[LocalModel], int]:
    """Return `blocks_max` for the memory that is free when it is called."""
    return lambda model: blocks_max(model, available_bytes(config))


def _fits(model: LocalModel, layers: LayerRange, available: int) -> bool:
    try:
        return check_memory(model, layers, available).fits
    except KwaaiError:  # not here, or cannot be cut there
        return False


def _available_bytes(loaded: list[LoadedSlice], model: LocalModel, config: Config) -> int:
    """Memory for `model`: what is free, and that of slices which nobody holds, or which a path of
    this model would use as they are.
    """
    reserved = sum(row.reserved_bytes for row in loaded)
    reusable = sum(
        row.reserved_bytes for row in loaded if not row.users or row.model.handle == model.handle
    )
    free = available_bytes(config.model_copy(update={"memory_limit_mb": None})) + reusable
    if config.memory_limit_mb is not None:
        free = min(free, config.memory_limit_mb * 1_000_000 - (reserved - reusable))
    return max(0, free)


def _decode_s(row: LoadedSlice) -> float:
    return 0.0 if row.host is None else row.host.stats.decode_us / 1e6


def _bytes_per_second(loaded: list[LoadedSlice]) -> tuple[float, float]:
    """Bytes of weights that a decode step here goes through, and seconds that each block takes
    besides: by what was measured, where the first has all, else guessed.
    """
    nbytes, seconds = 0, 0.0
    for row in loaded:
        decode_s = _decode_s(row)
        if decode_s > 0:
            nbytes += _weights(row.model.entry.header, row.layers, row.model)
            seconds += max(decode_s - DECODE_PASS_S_GUESS, decode_s / 2)
    if nbytes and seconds > 0:
        return nbytes / seconds, 0.0
    return DECODE_BYTES_S_GUESS, DECODE_BLOCK_S_GUESS


def _weights(header: GGUFHeader, layers: LayerRange, model: LocalModel) -> int:
    blocks = footprint.block_bytes(header)
    if not model.entry.whole:  # the header is of one part: all blocks are about alike
        return int(sum(blocks) / max(1, len(blocks)) * len(layers))
    head = footprint.head_bytes(header) if layers.stop == model.block_count else 0
    return sum(blocks[layers.start : layers.stop]) + head
