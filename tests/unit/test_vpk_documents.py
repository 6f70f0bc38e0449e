"""Documents: what each format's text, headings and pages become, and what is refused."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai import limits
from kwaai.errors import DocumentInvalid
from kwaai.testing.documents import make_bomb, make_docx, make_pdf
from kwaai.vpk.documents import pdf
from kwaai.vpk.documents.document import Document, Writer, clean, heading_text
from kwaai.vpk.documents.load import load_document
from kwaai.vpk.documents.loader import parse_document
from kwaai.vpk.documents.loader_worker import encode_document

READERS = (pdf.read_with_pdfium, pdf.read_with_pypdf)


def load(name: str, data: bytes | str) -> Document:
    data = data.encode() if isinstance(data, str) else data
    document = load_document(io.BytesIO(data), name)
    check(document)
    return document


def check(document: Document) -> None:
    end = 0
    for block in document.blocks:
        assert end <= block.start < block.stop <= len(document.text)
        assert document.text[block.start : block.stop].strip()
        assert not document.text[end : block.start].strip(" \n\t=-~^#*\f") or block.kind
        end = block.stop
    header, text = encode_document(document)
    assert parse_document(header, text) == document  # what the process says is what it read


def under(document: Document) -> list[tuple[tuple[str, ...], str]]:
    """(heading path, text) of each block that is no heading."""
    return [
        (block.heading, document.text[block.start : block.stop])
        for block in document.blocks
        if block.kind != "heading"
    ]


# Text.


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\r\nlines\rhere", "plain\nlines\nhere"),
        ("Größe".encode(), "Größe"),
        ("Größe".encode("latin-1"), "Größe"),
        ("“Größe”".encode("cp1252"), "“Größe”"),
        ("Größe".encode("utf-8-sig"), "Größe"),
        ("Größe".encode("utf-16"), "Größe"),
        ("Größe".encode("utf-32"), "Größe"),
    ],
)
def test_text_in_many_encodings(data: bytes, text: str) -> None:
    assert load("a.txt", data).text == text


def test_paragraphs_and_pages_of_plain_text() -> None:
    document = load("a.txt", "one\n\ntwo\nmore\n\f\nthree\n\n    code()\n    more()\n")
    assert [document.text[b.start : b.stop] for b in document.blocks][:3] == [
        "one",
        "two\nmore",
        "three",
    ]
    assert [(b.kind, b.page) for b in document.blocks] == [
        ("text", 1),
        ("text", 1),
        ("text", 2),
        ("lines", 2),
    ]


def test_markdown() -> None:
    document = load(
        "a.md",
        "---\ntags: x\n---\n# The **big** [title](http://x)\n\nIntro.\n\nPart\n----\n\n"
        "Text\nmore.\n\n```py\n# no heading\n\nx\n```\n### Deep #\nd\n## Next\n"
        "| a | b |\n| 1 | 2 |\n",
    )
    assert document.title == "The big title"
    assert under(document) == [
        (("The big title",), "Intro."),
        (("The big title", "Part"), "Text\nmore."),
        (("The big title", "Part"), "```py\n# no heading\n\nx\n```"),
        (("The big title", "Part", "Deep"), "d"),
        (("The big title", "Next"), "| a | b |\n| 1 | 2 |"),
    ]


def test_restructured_text() -> None:
    document = load(
        "a.rst",
        "=====\nTitle\n=====\n\nIntro.\n\nPart\n----\n\nBody::\n\n  code\n\nSub\n~~~\ns\n\n"
        "Last\n----\nl\n",
    )
    assert document.title == "Title"
    assert under(document) == [
        (("Title",), "Intro."),
        (("Title", "Part"), "Body::"),
        (("Title", "Part"), "  code"),
        (("Title", "Part", "Sub"), "s"),
        (("Title", "Last"), "l"),
    ]


def test_html() -> None:
    document = load(
        "a.html",
        "<!doctype html><title>A &amp; B</title><script>evil()</script><nav>Home</nav>"
        "<h1>Top</h1><p>Hello <b>bold</b>\n there.<h2>Sub</h2><ul><li>one<li>two</ul>"
        "<table><tr><th>a<th>b<tr><td>1<td>2</table><pre>x\n  y</pre><p>after",
    )
    assert document.title == "A & B"
    assert under(document) == [
        (("Top",), "Hello bold there."),
        (("Top", "Sub"), "- one"),
        (("Top", "Sub"), "- two"),
        (("Top", "Sub"), "a | b"),
        (("Top", "Sub"), "1 | 2"),
        (("Top", "Sub"), "x\n  y"),
        (("Top", "Sub"), "after"),
    ]


def test_html_that_is_all_navigation_is_read_all_the_same() -> None:
    assert under(load("a.html", "<nav><p>Only this</nav>")) == [((), "Only this")]


def test_html_in_the_encoding_that_it_names() -> None:
    data = '<meta charset="koi8-r"><p>Привет'.encode("koi8-r")
    assert under(load("a.htm", data)) == [((), "Привет")]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_tables_say_what_their_values_are(mark: str) -> None:
    rows = f'name{mark}age\nBob{mark}3\n"Eve {mark} x\ny"{mark}\n'
    text = load("a.csv", rows).text
    assert text == "name: Bob; age: 3\nname: " + " ".join(f"Eve {mark} x y".split())


def test_a_table_without_a_header() -> None:
    assert load("a.csv", "1,2\n3,4\n").text == "1; 2\n3; 4"


def test_json() -> None:
    document = load("a.json", '{"name":"x","n":1.50,"deps":{"a":[1,2],"b":[{"c":null}]}}')
    assert document.title == "x"
    assert under(document) == [
        ((), "name: x\nn: 1.50"),
        (("deps",), "deps.a: 1, 2\ndeps.b[0].c: null"),
    ]


def test_json_lines_and_lists_have_a_paragraph_for_each() -> None:
    for data in ('{"a":1}\n{"a":2}\n', '[{"a":1},{"a":2}]'):
        assert under(load("a.json", data)) == [((), "a: 1"), ((), "a: 2")]


def test_broken_or_endlessly_deep_json_is_text() -> None:
    assert load("a.json", '{"a": ').text == '{"a": '
    assert load("a.json", "[" * 100_000).text.startswith("[[[")
    assert load("a.json", '{"a":' * 80 + "1" + "}" * 80).text.startswith("a.a.a")


def test_source_code() -> None:
    document = load(
        "a.py",
        "import x\n\n\n# about\n@wrap\nclass A(B):\n    def f(self) -> int:\n        return 1\n\n"
        "    def g(self):\n        if x:\n            pass\n\n\nx = A()\n",
    )
    assert document.media_type == "text/x-python"
    assert under(document) == [
        ((), "import x"),
        (("class A(B)",), "# about\n@wrap\nclass A(B):"),
        (("class A(B)", "def f(self) -> int"), "    def f(self) -> int:\n        return 1"),
        (
            ("class A(B)", "def g(self)"),
            "    def g(self):\n        if x:\n            pass",
        ),
        ((), "x = A()"),
    ]


def test_configuration() -> None:
    document = load("a.toml", 'top = 1\n[tool.x]\na = "b"\n')
    assert under(document) == [((), "top = 1"), (("[tool.x]",), '[tool.x]\na = "b"')]


# PDF and Word.


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_library", lambda: request.param)


@pytest.mark.usefixtures("reader")
def test_pdf_has_pages_headings_and_whole_paragraphs() -> None:
    data = make_pdf(
        [
            [
                "1 Introduction",
                "A long paragraph is broken into lines, and its words are divi-",
                "ded.",
            ],
            ["More of it on the second page, which", "goes on.", "2. Methods", "We measured."],
        ],
        [("Introduction", 0), ("Methods", 1)],
    )
    document = load("a.pdf", data)
    assert [
        (*pair, block.page)
        for pair, block in zip(
            under(document), [b for b in document.blocks if b.kind != "heading"], strict=True
        )
    ] == [
        (("Introduction",), "A long paragraph is broken into lines, and its words are divided.", 1),
        (("Introduction",), "More of it on the second page, which goes on.", 2),
        (("Methods",), "We measured.", 2),
    ]


@pytest.mark.usefixtures("reader")
def test_headers_footers_and_page_numbers_of_a_pdf_are_left_out() -> None:
    pages = [
        [f"Annual report {2000 + n}", f"Fact {chr(97 + n)} stands here.", f"Page {n + 1} of 6"]
        for n in range(6)
    ]
    assert [text for _, text in under(load("a.pdf", make_pdf(pages)))] == [
        f"Fact {chr(97 + n)} stands here." for n in range(6)
    ]


@pytest.mark.usefixtures("reader")
def test_a_pdf_says_which_pages_have_no_text() -> None:
    document = load("a.pdf", make_pdf([["Text."], [], []]))
    assert document.problems == ("2 of 3 pages have no text (pictures?)",)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (make_pdf([[], []]), "no text"),
        (b"%PDF-1.7\nnothing behind it", "not a PDF, or a broken one"),
        (make_pdf([["x"]])[:200], "broken one|no text"),
        (b"just text", "not a PDF"),
    ],
)
def test_bad_pdfs_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DocumentInvalid, match=why):
        load("a.pdf", data)


@pytest.mark.usefixtures("reader")
def test_an_encrypted_pdf_is_refused() -> None:
    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf([["secret"]])))
    writer.encrypt("password", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    with pytest.raises(DocumentInvalid, match="without a password"):
        load("a.pdf", out.getvalue())


def test_a_pdf_is_known_by_its_beginning_and_not_by_a_mark_inside() -> None:
    assert load("scan", make_pdf([["x y"]])).media_type == "application/pdf"
    assert load("a.py", 'MARK = b"%PDF-"\n').media_type == "text/x-python"


def test_word() -> None:
    document = load("a.docx", make_docx())
    assert document.title == "The boat"
    assert under(document) == [
        (("Repairs",), "The hull was painted in May."),
        (("Repairs", "Engine"), "Change the oil."),
        (("Repairs", "Engine"), "part | price\nfilter | 12"),
        (("Repairs", "Engine"), "Page two begins here."),
    ]
    assert [block.page for block in document.blocks] == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (make_bomb(8 * limits.MIB), "zip bomb"),
        (make_docx()[:3000], "broken"),
        (b"PK\x03\x04 and nothing", "broken"),
        (b"text", "broken"),
        (make_bomb(10), "not a Word document"),
    ],
)
def test_bad_word_files_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DocumentInvalid, match=why):
        load("a.docx", data)


def test_an_extra_says_what_to_install() -> None:
    try:
        import markitdown  # noqa: F401
    except ImportError:
        with pytest.raises(DocumentInvalid, match=r"kwaainet\[documents\]"):
            load("a.xlsx", make_docx())


# Anything.


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.txt", b"", "empty"),
        ("a.md", b" \n\n ", "no text"),
        ("a.html", b"<script>x</script>", "no text"),
        ("a.txt", b"\x7fELF\0\0\1", "binary"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "binary"),
        ("a", bytes(range(1, 32)) * 9, "binary"),
    ],
)
def test_what_has_no_text_is_refused(name: str, data: bytes, why: str) -> None:
    with pytest.raises(DocumentInvalid, match=why):
        load(name, data)


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kwaai.vpk.documents.load.DOCUMENT_TEXT_BYTES_MAX", 10)
    with pytest.raises(DocumentInvalid, match="divide it"):
        load("a.txt", b"x" * 11)
    monkeypatch.setattr("kwaai.vpk.documents.document.DOCUMENT_CHARS_MAX", 100)
    with pytest.raises(DocumentInvalid, match="divide it"):
        load("a.pdf", make_pdf([["word " * 10]] * 5))
    with pytest.raises(DocumentInvalid, match="divide it"):
        load("a.html", "<p>" + "x" * 60 + "<p>" + "y" * 60)


SUFFIXES = st.sampled_from(
    "txt md rst html csv json jsonl py toml yaml pdf docx xlsx unknown".split()  # noqa: SIM905
)
MARKS = st.one_of(
    st.sampled_from(["# ", "\n=====\n", "\n-----\n", "\n```\n", "\n\n", "\f", "\t", "    "]),
    st.sampled_from(
        ["<h1>", "<p>", "</p>", "<table>", "<title>", "{", "[", '"', ",", ";", "class "]
    ),
)


@settings(max_examples=300)
@given(SUFFIXES, st.binary(max_size=300))
def test_no_bytes_crash_a_reader(suffix: str, data: bytes) -> None:
    with contextlib.suppress(DocumentInvalid):
        load(f"a.{suffix}", data)


@settings(max_examples=300)
@given(SUFFIXES, st.lists(st.one_of(MARKS, st.text(max_size=20)), max_size=30))
def test_no_text_crashes_a_reader(suffix: str, parts: list[str]) -> None:
    with contextlib.suppress(DocumentInvalid):
        load(f"a.{suffix}", "".join(parts).encode("utf-8", "surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_altered_file_crashes_a_reader(data: st.DataObject) -> None:
    name, whole = data.draw(
        st.sampled_from(
            [("a.docx", make_docx()), ("a.pdf", make_pdf([["one", "two"], ["x"]], [("one", 0)]))]
        )
    )
    altered = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DocumentInvalid, OSError):
        load_document(io.BytesIO(bytes(altered)), name)


# What the process answers.


def test_a_reply_carries_a_document() -> None:
    writer = Writer()
    writer.page = 2
    writer.add_heading("H", 1)
    writer.add("a\n\nb")
    writer.problems.append("1 of 2 pages are broken: 2")
    document = writer.finish("text/plain", "T")
    assert parse_document(*encode_document(document)) == document


@pytest.mark.parametrize(
    "blocks",
    [
        "[[0,0,9,0,null]]",
        "[[0,2,1,0,null]]",
        "[[0,0,0,0,null]]",
        "[[3,0,1,0,null]]",
        "[[0,0,1,1,null]]",
        "[[0,0,1,-1,null]]",
        "[[0,0,1,0,0]]",
        '[[0,0,1,0,"1"]]',
        "[[0,0,true,0,null]]",
        "[[0,0,1,0]]",
        "[[0,1,2,0,null],[0,0,1,0,null]]",
        "7",
    ],
)
def test_a_reply_of_a_process_that_was_taken_over_is_refused(blocks: str) -> None:
    header = (
        f'{{"blocks":{blocks},"headings":[[]],"media_type":"x","title":"","problems":[]}}'.encode()
    )
    with pytest.raises(ValueError, match=r".+"):
        parse_document(header, b"abc")


def test_a_reply_does_not_command_a_terminal() -> None:
    reply = b'{"blocks":[[0,0,1,0,null]],"headings":[["a\\u001b[2J"]],"media_type":"x",'
    reply += b'"title":"t","problems":[]}'
    document = parse_document(reply, b"a")
    assert isinstance(document, Document)
    assert document.blocks[0].heading == ("a [2J",)
    with pytest.raises(ValueError, match="control"):
        parse_document(reply, b"a\x1b[2J")


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_no_reply_crashes_the_node(header: bytes, text: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_document(header, text)


def test_text_is_cleaned_without_moving_anything() -> None:
    assert clean("a\0b\ud800c\x1b") == "a b c "
    assert heading_text("  a \n b ") == "a b"
    assert len(heading_text("x" * 9999)) == limits.DOCUMENT_HEADING_CHARS_MAX
