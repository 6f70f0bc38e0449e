"""How a person names a model on a hub, and which file of the repository that means.

`owner/model`, `owner/model:Q4_K_M`, `owner/model/file.gguf`, each with `@revision` after it. Pure:
no network, no disk.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from kwaai.errors import ModelNotFound, ModelUnsupported, UserError
from kwaai.limits import MODEL_NAME_CHARS_MAX

PREFERRED = ("Q4_K_M", "Q8_0")
"""Taken in this order when a repository has several files and none is named."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_PART = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|]{1,200}")
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_LISTED_MAX = 24


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A parsed MODEL. At most one of `file` and `quantisation` is set."""

    owner: str
    model: str
    revision: str | None = None
    file: str | None = None
    quantisation: str | None = None

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.model}"

    def __str__(self) -> str:
        what = (
            f"/{self.file}" if self.file else f":{self.quantisation}" if self.quantisation else ""
        )
        return self.repository + what + (f"@{self.revision}" if self.revision else "")


def parse_model_ref(spec: str) -> ModelRef:
    """Parse MODEL as a person types it. Raises UserError that says how to write it."""

    def wrong(why: str) -> UserError:
        return UserError(
            f"{spec[:MODEL_NAME_CHARS_MAX]!r} does not name a model on a hub: {why}. Write "
            "owner/model, "
            "owner/model:Q4_K_M or owner/model/file.gguf, with @revision after it if you want one",
            param="model",
        )

    if len(spec) > MODEL_NAME_CHARS_MAX:
        raise wrong("it is too long")
    if "://" in spec:
        raise wrong("it is an address; another hub is chosen with HF_ENDPOINT")
    left, at, revision = spec.strip().partition("@")
    left, colon, tag = left.partition(":")
    if at and not tag:
        revision, colon, tag = revision.partition(":")
    parts = left.split("/")
    if len(parts) < 2:
        raise wrong("an owner and a model are needed")
    for name in parts[:2]:
        if not _NAME.fullmatch(name) or ".." in name or "--" in name:
            raise wrong(f"{name!r} is not a name")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise wrong(f"{revision!r} is not a revision")
    if revision.lower().endswith(".gguf"):
        raise wrong("the file's name goes before the @")
    if colon and (not _TAG.fullmatch(tag) or len(parts) > 2):
        raise wrong("after the colon goes a quantisation, and not beside a file's name")
    file = "/".join(parts[2:]) or None
    if file is not None and (not file.lower().endswith(".gguf") or not is_safe_path(file)):
        raise wrong(f"{file!r} is not the name of a .gguf file")
    return ModelRef(parts[0], parts[1], revision or None, file, tag or None)


def is_safe_path(path: str) -> bool:
    """Answer whether a repository's file name may become a path below a directory of ours."""
    return len(path) <= 512 and all(
        _PART.fullmatch(part) and not part.startswith(".") and not part.endswith((".", " "))
        for part in path.split("/")
    )


def local_name(path: str) -> str:
    """Return the one flat file name under which a repository's file is kept on this disk."""
    return path.replace("/", "--")


def choose_file(ref: ModelRef, paths: Collection[str]) -> str:
    """Return the repository's file that `ref` means.

    Raises ModelNotFound (with what there is) when none fits or several do, ModelUnsupported for a
    split model.
    """
    models = sorted(p for p in paths if _is_model(p))
    if ref.file is not None:
        if ref.file not in paths:
            raise ModelNotFound(
                f"{ref.repository} has no file {ref.file}. {_listing(models)}", param="model"
            )
        return _whole(ref, ref.file)
    if not models:
        raise ModelNotFound(
            f"{ref.repository} has no GGUF file: look for a repository of the same model whose "
            "name ends in -GGUF",
            param="model",
        )
    fitting = [p for p in models if ref.quantisation is None or _has_tag(p, ref.quantisation)]
    if not fitting:
        raise ModelNotFound(
            f"{ref.repository} has no file with quantisation {ref.quantisation}. "
            f"{_listing(models)}",
            param="model",
        )
    whole = [p for p in fitting if not _is_split(p)]
    if not whole:
        return _whole(ref, fitting[0])
    if len(whole) == 1:
        return whole[0]
    if ref.quantisation is None:
        for tag in PREFERRED:
            tagged = [p for p in whole if _has_tag(p, tag)]
            if len(tagged) == 1:
                return tagged[0]
    raise ModelNotFound(f"{ref} fits several files: name one. {_listing(whole)}", param="model")


def _is_model(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].lower()
    return name.endswith(".gguf") and not name.startswith("mmproj") and is_safe_path(path)


def _has_tag(path: str, tag: str) -> bool:
    return re.search(rf"(?:^|[-._/]){re.escape(tag)}(?:[-./]|$)", path, re.IGNORECASE) is not None


def _is_split(path: str) -> bool:
    found = _SPLIT.search(path)
    return found is not None and int(found[1]) > 1


def _whole(ref: ModelRef, path: str) -> str:
    if _is_split(path):
        raise ModelUnsupported(
            f"{ref.repository}: {path} is one part of a model split over several files, which is "
            "not supported: "
            "choose a quantisation that is one file, or join the parts with llama-gguf-split "
            "--merge",
            param="model",
        )
    return path


def _listing(paths: list[str]) -> str:
    if not paths:
        return "It has no GGUF file at all"
    more = f" and {len(paths) - _LISTED_MAX} more" if len(paths) > _LISTED_MAX else ""
    return "Its GGUF files: " + ", ".join(paths[:_LISTED_MAX]) + more
