"""Names, ranges, headers and waiting: everything about downloads that needs no socket."""

from __future__ import annotations

import itertools
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai.errors import (
    DownloadFailed,
    KwaaiError,
    ModelNotFound,
    ModelUnsupported,
    UserError,
)
from kwaai.limits import HUB_ATTEMPTS_MAX, HUB_RETRY_AFTER_S_MAX
from kwaai.models.http_client import (
    Patience,
    Retrier,
    Transient,
    origin,
    redirect_target,
    retry_after_s,
    shown,
)
from kwaai.models.hub_names import (
    ModelRef,
    choose_file,
    is_safe_path,
    local_name,
    parse_model_ref,
)
from kwaai.models.hub_settings import DEFAULT_ENDPOINT, HubSettings
from kwaai.models.partial import load_json
from kwaai.models.progress import Meter, Progress
from kwaai.models.slices import SlicePart
from kwaai.models.spans import merge_parts, scatter

# --- MODEL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("owner/model", ModelRef("owner", "model")),
        ("Owner-1/Model_2.5-GGUF", ModelRef("Owner-1", "Model_2.5-GGUF")),
        ("owner/model:q4_k_m", ModelRef("owner", "model", quantisation="q4_k_m")),
        ("owner/model@v1.0", ModelRef("owner", "model", revision="v1.0")),
        ("owner/model@refs/pr/3", ModelRef("owner", "model", revision="refs/pr/3")),
        ("owner/model/a.gguf", ModelRef("owner", "model", file="a.gguf")),
        ("owner/model/Q4/a b.GGUF", ModelRef("owner", "model", file="Q4/a b.GGUF")),
        ("owner/model:Q8_0@dev", ModelRef("owner", "model", "dev", quantisation="Q8_0")),
        ("owner/model@dev:Q8_0", ModelRef("owner", "model", "dev", quantisation="Q8_0")),
        ("owner/model/a.gguf@dev", ModelRef("owner", "model", "dev", file="a.gguf")),
    ],
)
def test_a_model_is_named(spec: str, expected: ModelRef) -> None:
    assert parse_model_ref(spec) == expected
    assert parse_model_ref(str(expected)) == expected


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "model",
        "/model",
        "owner/",
        "owner/model:",
        "owner/model/a.bin",
        "owner/model/../../a.gguf",
        "owner/model/.hidden.gguf",
        "owner/model/a.gguf:Q4_0",
        "owner/model@",
        "owner/model@../x",
        "owner/model@dev/a.gguf",
        "../etc/a.gguf",
        "a--b/model",
        "owner/mo..del",
        "owner/model?x=1",
        "own er/model",
        "owner/model@a\r\nX: y",
        "https://host/owner/model",
        "o/" + "m" * 300,
    ],
)
def test_a_wrong_name_is_refused_and_says_how(spec: str) -> None:
    with pytest.raises(UserError, match="Write owner/model, owner/model:Q4_K_M"):
        parse_model_ref(spec)


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused(spec: str) -> None:
    try:
        ref = parse_model_ref(spec)
    except UserError:
        return
    assert ".." not in ref.repository
    assert ref.file is None or is_safe_path(ref.file)


FILES = ("README.md", "m-Q4_K_M.gguf", "m-Q5_0.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf")


@pytest.mark.parametrize(
    ("spec", "paths", "expected"),
    [
        ("o/m", FILES, "m-Q4_K_M.gguf"),
        ("o/m:q5_0", FILES, "m-Q5_0.gguf"),
        ("o/m", ("x.Q8_0.gguf", "x.Q2_K.gguf"), "x.Q8_0.gguf"),
        ("o/m", ("only.gguf", "mmproj-only.gguf"), "only.gguf"),
        ("o/m/m-Q5_0.gguf", FILES, "m-Q5_0.gguf"),
        ("o/m:Q4_0", ("m-Q4_0.gguf", "m-Q4_0_4_4.gguf"), "m-Q4_0.gguf"),
        ("o/m:F16", ("F16/m.gguf", "Q8_0/m.gguf"), "F16/m.gguf"),
        ("o/m", ("m-00001-of-00001.gguf",), "m-00001-of-00001.gguf"),
        ("o/m", ("m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"), "m-Q8_0.gguf"),
    ],
)
def test_a_file_is_chosen(spec: str, paths: tuple[str, ...], expected: str) -> None:
    assert choose_file(parse_model_ref(spec), paths) == expected


@pytest.mark.parametrize(
    ("spec", "paths", "kind", "message"),
    [
        ("o/m:Q6_K", FILES, ModelNotFound, "Its GGUF files: m-Q4_K_M.gguf, m-Q5_0.gguf"),
        ("o/m/no.gguf", FILES, ModelNotFound, "has no file no.gguf. Its GGUF files: m-Q4_K_M"),
        ("o/m", ("a.gguf", "b.gguf"), ModelNotFound, "several files: name one. .*a.gguf, b.gguf"),
        ("o/m", ("model.safetensors",), ModelNotFound, "no GGUF file: look for"),
        ("o/m", ("../a.gguf", "/b.gguf"), ModelNotFound, "no GGUF file"),
        ("o/m:Q8_0", ("m-Q8_0-00001-of-00002.gguf",), ModelUnsupported, "split over several"),
        (
            "o/m/m-00001-of-00002.gguf",
            ("m-00001-of-00002.gguf",),
            ModelUnsupported,
            "llama-gguf-split --merge",
        ),
    ],
)
def test_no_file_fits(
    spec: str, paths: tuple[str, ...], kind: type[KwaaiError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        choose_file(parse_model_ref(spec), paths)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/../b", "..", "a//b", "a\\b", ".a", "a/.b", "a\0", "a\n", "c:a", "a.", "a "],
)
def test_a_path_from_a_stranger_stays_below(path: str) -> None:
    assert not is_safe_path(path)


def test_a_file_in_a_folder_gets_one_name() -> None:
    assert local_name("Q4_K_M/model.gguf") == "Q4_K_M--model.gguf"


# --- byte ranges ---------------------------------------------------------------------------------


@st.composite
def part_lists(draw: st.DrawFn) -> list[SlicePart]:
    """Draw parts that do not overlap in the source, in any order, with stubs between them."""
    parts, at = [], draw(st.integers(0, 50))
    for n in range(draw(st.integers(0, 12))):
        at += draw(st.integers(0, 40))
        size = draw(st.integers(0, 60))
        stub = draw(st.booleans()) and draw(st.booleans())
        parts.append(SlicePart(f"t{n}", None if stub else at, draw(st.integers(0, 10**6)), size))
        at += size
    return draw(st.permutations(parts))


@given(part_lists(), st.integers(0, 60), st.integers(1, 37))
def test_merged_ranges_hold_every_part_once(
    parts: list[SlicePart], gap: int, chunk_bytes: int
) -> None:
    spans = merge_parts(parts, gap)
    source = {p.name: p for p in parts if p.source_offset is not None and p.nbytes}
    assert sorted(p.name for s in spans for p in s.parts) == sorted(source)
    for before, after in itertools.pairwise(spans):
        assert after.start - before.stop > gap
    for span in spans:
        got = {part.name: b"" for part in span.parts}
        content = bytes(n % 251 for n in range(span.start, span.stop))
        for at in range(span.start, span.stop, chunk_bytes):
            data = content[at - span.start : at - span.start + chunk_bytes]
            for part, offset, piece in scatter(span, at, data):
                assert offset == len(got[part.name])
                got[part.name] += piece
        for part in span.parts:
            start = part.source_offset
            assert start is not None
            assert got[part.name] == bytes(n % 251 for n in range(start, start + part.nbytes))


def test_overlapping_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="b overlaps"):
        merge_parts([SlicePart("a", 0, 0, 10), SlicePart("b", 9, 0, 10)], 0)


# --- settings ------------------------------------------------------------------------------------


def test_settings_have_the_hubs_defaults(tmp_path: Path) -> None:
    settings = HubSettings.from_env({"HOME": str(tmp_path)})
    assert settings.endpoint == DEFAULT_ENDPOINT
    assert settings.token is None
    assert settings.cache == tmp_path / ".cache/huggingface/hub"


def test_a_token_comes_from_variables_then_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_file\n")
    env = {"HF_HOME": str(tmp_path)}
    assert HubSettings.from_env(env).token == "hf_file"
    env["HUGGING_FACE_HUB_TOKEN"] = "hf_old"
    assert HubSettings.from_env(env).token == "hf_old"
    env["HF_TOKEN"] = "hf_new"
    assert HubSettings.from_env(env).token == "hf_new"
    assert "hf_new" not in repr(HubSettings.from_env(env))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"HF_ENDPOINT": "huggingface.co"}, "HF_ENDPOINT is not usable"),
        ({"HF_ENDPOINT": "ftp://host"}, "HF_ENDPOINT is not usable"),
        ({"HF_ENDPOINT": "https://user:pass@host"}, "password in it is refused"),
        ({"HF_ENDPOINT": "https://host:port"}, "HF_ENDPOINT is not usable"),
        ({"HF_TOKEN": "a b"}, "HF_TOKEN does not hold a token"),
        ({"HF_TOKEN": "a\r\nX-Other: b"}, "HF_TOKEN does not hold a token"),
    ],
)
def test_wrong_settings_are_refused(env: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        HubSettings.from_env({"HF_HOME": str(tmp_path), **env})
    assert "pass@" not in str(caught.value)


def test_a_record_that_is_no_json_object_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        assert load_json(path) == {}
    assert load_json(tmp_path / "absent.json") == {}


# --- waiting -------------------------------------------------------------------------------------


def patience(waits: list[float]) -> Patience:
    return Patience(sleep=waits.append, clock=lambda: 0.0, now=lambda: 1000.0, jitter=lambda: 1.0)


def test_waits_grow_and_end() -> None:
    waits: list[float] = []
    retrier = Retrier(patience(waits), "fetching x")
    for _ in range(HUB_ATTEMPTS_MAX - 1):
        retrier.failed(Transient("broke"))
    assert waits == [0.5, 1.0, 2.0, 4.0]
    retrier.progressed()
    retrier.failed(Transient("broke"))
    assert waits[-1] == 0.5
    for _ in range(HUB_ATTEMPTS_MAX - 2):
        retrier.failed(Transient("broke"))
    with pytest.raises(DownloadFailed, match="fetching x: broke; gave up after 5 attempts"):
        retrier.failed(Transient("broke"))


def test_a_hub_may_ask_for_some_patience_not_for_any() -> None:
    waits: list[float] = []
    retrier = Retrier(patience(waits), "x")
    retrier.failed(Transient("busy", retry_after_s=7.0))
    assert waits == [7.0]
    with pytest.raises(DownloadFailed, match="asks to wait 3600 s") as caught:
        retrier.failed(Transient("busy", retry_after_s=3600.0))
    assert caught.value.retry_after_s == 3600.0
    assert HUB_RETRY_AFTER_S_MAX < 3600.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1e9", None),
        ("120", 120.0),
        (formatdate(1030.0, usegmt=True), 30.0),
        (formatdate(10.0, usegmt=True), 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert retry_after_s(value, now=1000.0) == expected


@given(st.text(max_size=80))
def test_any_retry_after_is_parsed_or_ignored(value: str) -> None:
    wait_s = retry_after_s(value, now=1000.0)
    assert wait_s is None or wait_s >= 0.0


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("https://Host/a") == ("https", "host", 443)
    assert origin("http://host:80/") == origin("http://host/")
    for url in ("file:///etc/passwd", "ftp://host/", "//host/", "http:///x", "http://u@host/"):
        with pytest.raises(ValueError, match=r"address"):
            origin(url)


def test_a_redirect_leads_on_but_never_out_of_https() -> None:
    assert redirect_target("https://a/b/c", "/d") == "https://a/d"
    assert redirect_target("http://a/b", "https://c/d") == "https://c/d"
    for location in ("http://a/d", "HTTP://b/", "ftp://a/", "file:///d", "https://u:p@a/"):
        with pytest.raises(DownloadFailed, match=r"refused|not an http"):
            redirect_target("https://a/b", location)


def test_a_strangers_text_is_shown_short_and_plain() -> None:
    assert shown("a\r\n\x1b[31mb") == "a???[31mb"
    assert len(shown("x" * 1000)) < 130


# --- progress ------------------------------------------------------------------------------------


def test_progress_has_speed_and_time_left() -> None:
    now = [0.0]
    reports: list[Progress] = []
    meter = Meter(reports.append, lambda: now[0])
    meter.begin("fetching", "m.gguf", 1000, 200)
    assert reports[-1] == Progress(200, 1000, None, None, "fetching", "m.gguf")
    for _ in range(4):
        now[0] += 1.0
        meter.advance(100)
    assert reports[-1] == Progress(600, 1000, 100.0, 4.0, "fetching", "m.gguf")
    before = len(reports)
    meter.advance(100)  # at the same instant: counted, not reported
    assert len(reports) == before
    now[0] += 1.0
    meter.advance(300)
    assert reports[-1].done_bytes == reports[-1].total_bytes == 1000
    assert reports[-1].eta_s == 0.0
    assert 100.0 < (reports[-1].speed_bytes_s or 0.0) < 400.0
    assert meter.fetched_bytes == 800
