"""The text side of a model, in a process of its own: tokenizer and chat template from its GGUF.

Apart from the slices because a template is a program by a stranger (it is ended by the caller's
deadline), and because a prompt can be tokenised while a batch computes. Loads no weights.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import re
import struct
from typing import Any

import llama_cpp as lc

from kwaai.errors import ModelUnsupported, UserError
from kwaai.inference import ggml
from kwaai.inference.ipc import Header
from kwaai.inference.templates import DEFAULT_TEMPLATE, render_chat
from kwaai.limits import PROMPT_CHARS_MAX

_PIECE_BYTES = (
    512  # pieces are under 256 bytes in every known vocabulary; longer ones are asked for twice
)
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters: no text that is exchanged holds them
_PROTECTED = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)


class TextWorker:
    """One vocabulary. `info` says what the node needs to know of it."""

    def __init__(self, path: str, template: str | None) -> None:
        ggml.quiet_logs()
        params = lc.llama_model_default_params()
        params.vocab_only = True
        self._model = lc.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ModelUnsupported(
                f"llama.cpp cannot read the tokenizer of {path}: {ggml.last_log()}"
            )
        self._vocab = lc.llama_model_get_vocab(self._model)
        self._template = template or DEFAULT_TEMPLATE
        self._size = int(lc.llama_vocab_n_tokens(self._vocab))
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        self._lengths, self._pieces = self._all_pieces()
        self._controls = self._control_pattern()
        ends = [t for t in range(self._size) if lc.llama_vocab_is_eog(self._vocab, t)]
        self.info: dict[str, Any] = {"vocab": self._size, "eog": ends}

    def handle(self, header: Header, payload: memoryview) -> tuple[Header, memoryview | bytes]:
        """Answer `tokenize`, `chat` or `pieces`. Raises UserError for what cannot be."""
        op = header.get("op")
        if op == "tokenize":
            return {"ok": True}, self._tokens(_text(payload), special=False)
        if op == "chat":
            return {"ok": True}, self._chat_tokens(json.loads(bytes(payload)))
        if op == "pieces":
            return {"ok": True, "lengths": len(self._lengths)}, self._lengths + self._pieces
        raise UserError(f"a text worker knows no operation {op!r}", param="op")

    def _chat_tokens(self, messages: list[dict[str, str]]) -> bytes:
        """Turn a conversation into tokens. The template's control tokens count; what looks like one
        in a message stays text, or a message could end itself and go on as another's.
        """
        safe = [{**m, "content": self._protect(m["content"])} for m in messages]
        pieces = _PROTECTED.split(self._render(safe))  # the protected ones are the odd ones
        return b"".join(
            self._tokens(piece, special=index % 2 == 0, begins=index == 0)
            for index, piece in enumerate(pieces)
            if piece or index == 0
        )

    def _protect(self, content: str) -> str:
        content = content.replace(_OPEN, "\ufffd").replace(_CLOSE, "\ufffd")
        return self._controls.sub(lambda found: f"{_OPEN}{found[0]}{_CLOSE}", content)

    def _control_pattern(self) -> re.Pattern[str]:
        """Match a run of what the tokenizer takes for control tokens; nothing if it has none."""
        marks = lc.LLAMA_TOKEN_ATTR_CONTROL | lc.LLAMA_TOKEN_ATTR_UNKNOWN
        texts = {
            lc.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
            for token in range(self._size)
            if lc.llama_vocab_get_attr(self._vocab, token) & marks
        }
        longest_first = sorted(texts - {""}, key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first))
        return re.compile(f"(?:{either})+" if either else "(?!)")

    def _render(self, messages: list[dict[str, str]]) -> str:
        return render_chat(
            self._template,
            messages,
            bos=self._special(lc.llama_vocab_bos(self._vocab)),
            eos=self._special(lc.llama_vocab_eos(self._vocab)),
            add_generation_prompt=True,
            now=datetime.datetime.now(),
        )

    def _special(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _tokens(self, text: str, *, special: bool, begins: bool = True) -> bytes:
        """Return the int32 tokens of `text`; with the one that begins a prompt if it `begins`."""
        if len(text) > PROMPT_CHARS_MAX:
            raise UserError(f"a prompt of {len(text)} characters is over {PROMPT_CHARS_MAX}")
        data = text.encode("utf-8", "replace")
        add_bos = begins and bool(lc.llama_vocab_get_add_bos(self._vocab))
        capacity = len(data) + 8
        out = (ctypes.c_int32 * capacity)()
        # llama.cpp adds BOS and EOS together or not at all; an EOS would end the prompt.
        count = lc.llama_tokenize(self._vocab, data, len(data), out, capacity, False, special)
        if count < 0:
            raise UserError("the tokenizer needs more tokens than the text has bytes")
        tokens = bytes(memoryview(out).cast("B")[: count * 4])
        bos = struct.pack("=i", lc.llama_vocab_bos(self._vocab))
        # A chat template may have written the one that begins the prompt.
        return bos + tokens if add_bos and not tokens.startswith(bos) else tokens

    def _piece(self, token: int, *, special: bool) -> bytes:
        size = lc.llama_token_to_piece(
            self._vocab, token, self._buffer, len(self._buffer), 0, special
        )
        if size < 0:
            self._buffer = ctypes.create_string_buffer(-size)
            size = lc.llama_token_to_piece(self._vocab, token, self._buffer, -size, 0, special)
        return self._buffer.raw[:size]

    def _all_pieces(self) -> tuple[bytes, bytes]:
        pieces = [self._piece(token, special=False) for token in range(self._size)]
        return struct.pack(f"<{len(pieces)}I", *map(len, pieces)), b"".join(pieces)


def _text(payload: memoryview) -> str:
    try:
        return bytes(payload).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt is not UTF-8: {error}") from None
