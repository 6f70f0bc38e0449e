"""Read one named tensor out of a graph that llama.cpp is computing, and overwrite another before
use.

Rests on the public `cb_eval` hook: it is asked about every node (`ask`), and called again when a
node it wanted has been computed. Answering False then ends the graph: what comes after is not
computed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kwaai.inference import ggml

Rows = npt.NDArray[np.float32]


class GraphTap:
    """The hook of one context, for one pass at a time.

    The hook is called some 35 times per layer, so it compares addresses, not names: a graph that is
    reused, or built again the same way, has its nodes at the same addresses. That they are the
    right ones is checked by name when they are reached; `finish` is False where they were not, and
    the pass must then be made again, by name.
    """

    def __init__(self, output: str | None, source: str | None) -> None:
        """`output`: read, after which the graph ends. `source`: overwritten. None: neither."""
        self._output = output.encode() if output else None
        self._source = source.encode() if source else None
        self._known: frozenset[int] = frozenset()
        self._seen: list[int] = []
        self._rows: Rows | None = None
        self._captured: Rows | None = None
        # C keeps only the pointer: this object must live as long as the context.
        self.callback = ggml.EVAL_CALLBACK(self._on_node)

    def arm(self, rows: Rows | None) -> None:
        """Prepare for a pass. rows: float32 (tokens, embd), what `source` is overwritten with."""
        self._rows, self._captured = rows, None
        self._seen.clear()

    def finish(self) -> bool:
        """End a pass: say whether every tensor was met, and if so remember where they are."""
        complete = len(self._seen) == (self._output is not None) + (self._source is not None)
        if complete and not self._known:
            self._known = frozenset(self._seen)
        return complete

    def forget(self) -> bool:
        """Go by names again; say whether the last pass went by addresses."""
        guessed, self._known = bool(self._known), frozenset()
        return guessed

    def take(self) -> Rows:
        """Return what `output` held: float32, flat. Call it after a complete pass."""
        assert self._captured is not None
        captured, self._captured = self._captured, None
        return captured

    def _on_node(self, tensor: int, ask: bool, _: int) -> bool:
        if not ask:
            return self._reached(tensor)
        if self._known:
            return tensor in self._known
        name = ggml.tensor_name(tensor)
        return bool(name == self._output or name == self._source)

    def _reached(self, tensor: int) -> bool:
        name = ggml.tensor_name(tensor)
        if name == self._source and self._rows is not None:
            ggml.write_float32(tensor, self._rows)
            self._seen.append(tensor)
            return True
        if name == self._output:
            self._captured = ggml.read_float32(tensor)
            self._seen.append(tensor)
        return False
