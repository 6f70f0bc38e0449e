"""The few functions of libggml that llama-cpp-python does not bind: tensor names, bytes,
dequantisation.

Loads native code, so only worker processes import it. Source: `ggml.h` and `ggml-backend.h` of the
llama.cpp release inside the installed llama-cpp-python.
"""

from __future__ import annotations

import collections
import ctypes
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

EVAL_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
_LOG_CHARS_MAX = 500
_LEVEL_WARN = 3  # GGML_LOG_LEVEL_WARN; errors are 4, continuations 5
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


def _open(name: str) -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    names = [folder / f"{prefix}{name}{suffix}" for prefix in ("lib", "")]
    return ctypes.CDLL(str(next((n for n in names if n.exists()), names[0])))


def _load() -> ctypes.CDLL:
    lib = _open("ggml-base")
    lib.ggml_get_name.argtypes, lib.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    lib.ggml_nbytes.argtypes, lib.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    transfer = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    lib.ggml_backend_tensor_get.argtypes, lib.ggml_backend_tensor_get.restype = transfer, None
    lib.ggml_backend_tensor_set.argtypes, lib.ggml_backend_tensor_set.restype = transfer, None
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return lib


_lib = _load()

tensor_name = _lib.ggml_get_name
"""`tensor_name(pointer) -> bytes`, bound directly: it is called for every node of a graph."""


def read_float32(tensor: int) -> npt.NDArray[np.float32]:
    """Copy a whole float32 tensor out of whatever backend holds it: (elements,)."""
    size = int(_lib.ggml_nbytes(tensor))
    out = np.empty(size // 4, np.float32)
    _lib.ggml_backend_tensor_get(tensor, out.ctypes.data, 0, size)
    return out


def write_float32(tensor: int, values: npt.NDArray[np.float32]) -> None:
    """Overwrite a whole float32 tensor. Raises ValueError when the sizes differ."""
    if int(_lib.ggml_nbytes(tensor)) != values.nbytes:
        raise ValueError(f"a tensor of {_lib.ggml_nbytes(tensor)} bytes, {values.nbytes} to write")
    _lib.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)


_DEVICE_KINDS = (
    "cpu",
    "gpu",
    "gpu",
    "accelerator",
    "meta",
)  # enum ggml_backend_dev_type; 2: integrated


def devices() -> list[list[str]]:
    """List llama.cpp's devices as [kind, name, description]."""
    llama_cpp.llama_backend_init()
    lib = _open("ggml")
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    _lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    out = []
    for function in (_lib.ggml_backend_dev_name, _lib.ggml_backend_dev_description):
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
    for index in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(index)
        kind = _DEVICE_KINDS[min(_lib.ggml_backend_dev_type(device), len(_DEVICE_KINDS) - 1)]
        name = _lib.ggml_backend_dev_name(device).decode("utf-8", "replace")
        text = _lib.ggml_backend_dev_description(device).decode("utf-8", "replace")
        out.append([kind, name, text])
    return out


def supports_offload() -> bool:
    """Whether llama.cpp was built with a GPU backend."""
    return bool(llama_cpp.llama_supports_gpu_offload())


_log_lines: collections.deque[str] = collections.deque(maxlen=8)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _: object) -> None:
    if level >= _LEVEL_WARN:
        _log_lines.append(text.decode("utf-8", "replace").strip())


def quiet_logs() -> None:
    """Keep llama.cpp's last warnings and errors instead of printing everything; see `last_log`."""
    llama_cpp.llama_log_set(_keep_errors, ctypes.c_void_p(0))


def last_log() -> str:
    """What llama.cpp complained of since the last call, newest last, on one line."""
    # Each layer of the loader adds that it failed too; what failed is said before.
    lines = [line for line in _log_lines if line and "failed to load model" not in line]
    _log_lines.clear()
    return "; ".join(lines)[:_LOG_CHARS_MAX] or "it does not say why"


class Dequantiser:
    """ggml's own conversion of one tensor type to float32: the same function its CPU `get_rows`
    calls.
    """

    def __init__(self, ggml_type: int) -> None:
        traits = _lib.ggml_get_type_traits(ggml_type).contents
        self.block_elements = int(traits.blck_size)
        self.block_bytes = int(traits.type_size)
        self._to_float: Any = _TO_FLOAT(traits.to_float) if traits.to_float else None
        if self._to_float is None and ggml_type != 0:  # 0 is float32, which needs no conversion
            raise ValueError(f"ggml cannot convert tensor type {ggml_type} to float32")

    def row(self, data: int, out: npt.NDArray[np.float32]) -> None:
        """Convert `len(out)` elements at address `data`; out: float32 (embd,), contiguous."""
        if self._to_float is None:
            ctypes.memmove(out.ctypes.data, data, out.nbytes)
        else:
            self._to_float(data, out.ctypes.data, len(out))
