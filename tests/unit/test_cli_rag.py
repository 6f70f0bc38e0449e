"""`kwaainet rag` and `kwaainet vpk`, against a fake node behind a real control socket."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from run_command import Capture, run

from kwaai.cli import vpk_bench
from kwaai.node.knowledge_answers import KnowledgeAnswers
from kwaai.node.knowledge_control import FileRow, IngestOptions, SearchView
from kwaai.store.home import Home
from kwaai.testing.control import FakeNode
from kwaai.testing.knowledge_control import BASE, CELLS, PEER

pytestmark = pytest.mark.usefixtures("node")


class TestRag:
    def test_init(self, capsys: Capture, node: FakeNode) -> None:
        code, out, err = run(capsys, "rag", "init", "notes")
        assert (code, err) == (0, "")
        assert "made the base notes (sealed, all-MiniLM-L6-v2, at 1 host)" in out
        assert "kwaainet rag ingest PATH --base notes" in out
        assert node.knowledge.calls == [("create", "notes", "sealed", False)]
        code, _, err = run(capsys, "rag", "init", "notes")
        assert code != 0
        assert "there is a knowledge base 'notes' already" in err

    def test_full_text_alone_is_said(self, capsys: Capture) -> None:
        _, out, _ = run(capsys, "rag", "init", "words", "--fulltext-only")
        assert "full-text search alone" in out

    def test_list(self, capsys: Capture) -> None:
        code, out, _ = run(capsys, "rag", "list")
        assert code == 0
        assert "default" in out
        _, out, _ = run(capsys, "rag", "list", "--json")
        assert json.loads(out)["bases"][0]["passages"] == 4

    def test_ingest(self, capsys: Capture, node: FakeNode, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("a")
        code, out, _ = run(capsys, "rag", "ingest", str(tmp_path))
        assert code == 0
        assert "files: 1 new, 2 unchanged; 4 passages in 2 s" in out
        assert node.knowledge.calls == [("ingest", "default", (str(tmp_path),), IngestOptions())]

    def test_a_file_that_failed_is_named(
        self, capsys: Capture, node: FakeNode, tmp_path: Path
    ) -> None:
        node.knowledge.files = (FileRow("/home/bob/scan.pdf", "failed", 0, "it has no text"),)
        code, out, _ = run(capsys, "rag", "ingest", str(tmp_path))
        assert code == 1
        assert "it has no text" in out

    def test_of_many_files_those_are_listed_that_want_a_look(
        self, capsys: Capture, node: FakeNode, tmp_path: Path
    ) -> None:
        well = [FileRow(f"/home/bob/{n}.txt", "new", 1) for n in range(40)]
        pictures = [FileRow(f"/home/bob/{n}.png", "skipped", 0, "a binary file") for n in range(9)]
        failed = FileRow("/home/bob/scan.pdf", "failed", 0, "it has no text")
        node.knowledge.files = (*well, *pictures, failed)
        code, out, _ = run(capsys, "rag", "ingest", str(tmp_path))
        assert code == 1
        assert "/home/bob/scan.pdf" in out
        assert "/home/bob/3.txt" not in out
        assert "/home/bob/3.png" not in out
        assert "files: 40 new, 2 unchanged, 9 skipped, 1 failed; 4 passages in 2 s" in out

    def test_nothing_to_take_in(self, capsys: Capture, node: FakeNode, tmp_path: Path) -> None:
        node.knowledge.files = ()
        node.knowledge.unchanged = 0
        code, out, _ = run(capsys, "rag", "ingest", str(tmp_path))
        assert code == 0
        assert "no file to take in was found" in out

    def test_a_path_with_a_typo(self, capsys: Capture, node: FakeNode) -> None:
        code, _, err = run(capsys, "rag", "ingest", "/no/such/folder")
        assert code != 0
        assert "there is no file or folder /no/such/folder" in err
        assert node.knowledge.calls == []

    def test_sync(self, capsys: Capture, node: FakeNode) -> None:
        assert run(capsys, "rag", "sync")[0] == 0
        assert node.knowledge.calls == [("ingest", "default", (), IngestOptions(sync=True))]
        code, _, err = run(capsys, "rag", "sync", "--watch", "--every", "0")
        assert code == 2
        assert "--every is 1 to 86400 seconds" in err

    def test_passages(self, capsys: Capture, node: FakeNode) -> None:
        code, out, _ = run(capsys, "rag", "query", "--passages", "--explain", "lease?", "-k", "3")
        assert code == 0
        assert "[1] lease.pdf, page 3, Lease > Term" in out
        assert "The lease ends on 31 March 2031." in out
        assert "100 candidates" in out
        assert "embed 0.5 ms" in out
        assert node.knowledge.calls == [("search", "default", "lease?", 3, True)]

    def test_an_answer_with_its_sources(self, capsys: Capture, node: FakeNode) -> None:
        async def search(base: str, text: str, count: int) -> SearchView:
            return await node.knowledge.search(base, text, count, explain=False)

        answers = KnowledgeAnswers(node.generator, lambda: ["default"], search)
        node.generator = cast(Any, answers)
        code, out, _ = run(capsys, "rag", "query", "lease?", "--json", "-k", "2")
        assert code == 0
        told = json.loads(out)
        assert told["answer"]
        assert [source["document"] for source in told["sources"]] == ["lease.pdf"]
        assert node.knowledge.calls == [("search", "default", "lease?", 2, False)]
        _, out, _ = run(capsys, "rag", "query", "lease?")
        assert "[1] lease.pdf, page 3, Lease > Term" in out

    def test_an_unknown_base(self, capsys: Capture) -> None:
        code, _, err = run(capsys, "rag", "docs", "--base", "nots")
        assert code == 66
        assert "there is no knowledge base 'nots'" in err

    def test_documents(self, capsys: Capture, node: FakeNode, tmp_path: Path) -> None:
        assert "lease.pdf" in run(capsys, "rag", "docs")[1]
        assert run(capsys, "rag", "delete-doc", "lease.pdf")[0] == 0
        assert run(capsys, "rag", "export", str(tmp_path / "all.jsonl"))[0] == 0
        node.knowledge.missing = 2
        code, _, err = run(capsys, "rag", "export", str(tmp_path / "some.jsonl"))
        assert (code, "2 passages could not be had" in err) == (1, True)
        (tmp_path / "there").write_text("x")
        code, _, err = run(capsys, "rag", "export", str(tmp_path / "there"))
        assert (code, "is there already" in err) == (2, True)
        assert [call[0] for call in node.knowledge.calls] == ["delete", "export", "export"]

    def test_destroy_asks(self, capsys: Capture, node: FakeNode) -> None:
        code, _, err = run(capsys, "rag", "destroy", "default")
        assert code == 2
        assert "--yes" in err
        assert node.knowledge.calls == []
        assert run(capsys, "rag", "destroy", "default", "--yes")[0] == 0
        assert node.knowledge.calls == [("destroy", "default")]

    def test_destroy_says_who_keeps_something(self, capsys: Capture, node: FakeNode) -> None:
        node.knowledge.missing = 1
        code, _, err = run(capsys, "rag", "destroy", "default", "--yes")
        assert (code, "keep their sealed copies: eva" in err) == (0, True)

    def test_cells_for_thin_clients(self, capsys: Capture, node: FakeNode) -> None:
        code, out, _ = run(capsys, "rag", "thin")
        assert code == 0
        assert "default: thin clients: 2 cells of 4 passages; each keeps 1.6 kB" in out
        assert "kwaainet rag restore default --thin" in out
        assert "sealed, cells" in run(capsys, "rag", "list")[1]
        assert "2 cells of 4 passages" in run(capsys, "vpk", "resolve")[1]
        assert json.loads(run(capsys, "vpk", "resolve", "--json")[1])["thin"]["cells"] == 2
        out = run(capsys, "rag", "restore", "default", "--thin")[1]
        assert "restored default: a thin client's copy: 1.6 kB here" in out
        assert "has no cells any more" in run(capsys, "rag", "thin", "default", "--off")[1]
        assert node.knowledge.calls == [
            ("thin", "default", False),
            ("restore", "default", True),
            ("thin", "default", True),
        ]

    def test_a_thin_copy_is_listed_and_forgotten_as_one(
        self, capsys: Capture, node: FakeNode
    ) -> None:
        copy = replace(BASE, thin=replace(CELLS, client=True))
        node.knowledge.rows["default"] = copy
        assert "thin" in run(capsys, "rag", "list")[1]
        assert "here (its hosts keep it)" in run(capsys, "rag", "destroy", "default")[2]

    def test_restore(self, capsys: Capture) -> None:
        assert "restored default: 1 documents, 4 passages" in run(capsys, "rag", "restore")[1]

    def test_share(self, capsys: Capture, node: FakeNode) -> None:
        code, out, err = run(capsys, "rag", "share", "default", "--to", "anna", "--days", "0.5")
        assert (code, out) == (0, "token\n")
        assert "opens at anna only" in err
        assert node.knowledge.calls == [("share", "default", "anna", 0.5)]
        assert run(capsys, "rag", "share", "default")[0] == 2
        assert run(capsys, "rag", "share", "default", "--to", "anna", "--days", "0")[0] == 2
        _, out, _ = run(capsys, "rag", "share", "default", "--to", "anna", "--json")
        assert json.loads(out) == {"token": "token"}

    def test_attach(self, capsys: Capture, node: FakeNode, tmp_path: Path) -> None:
        token = "vpkshare1-" + "A" * 100
        code, out, _ = run(capsys, "rag", "attach", token)
        assert code == 0
        assert "attached default-bob: 1 documents, 4 passages; it belongs to bob, until 2027" in out
        (tmp_path / "token").write_text(f"{token[:60]}\n{token[60:]}\n")  # broken by a mail
        assert run(capsys, "rag", "attach", str(tmp_path / "token"), "--as", "theirs")[0] == 0
        assert node.knowledge.calls == [("attach", token, ""), ("attach", token, "theirs")]
        out = run(capsys, "rag", "list")[1]
        assert "this node" in out
        assert "bob, until 2027-01-15 08:00 UTC" in out

    def test_what_is_no_token(self, capsys: Capture, node: FakeNode, tmp_path: Path) -> None:
        code, _, err = run(capsys, "rag", "attach", "vpkshare")
        assert (code, "a token begins with vpkshare1-" in err) == (66, True)
        for text in (b"", b"\xff", b"vpkshare1-" + b"A" * 9000):
            (tmp_path / "token").write_bytes(text)
            code, _, err = run(capsys, "rag", "attach", str(tmp_path / "token"))
            assert (code, "give all of it" in err) == (2, True)
        assert node.knowledge.calls == []


class TestVpk:
    def test_status(self, capsys: Capture) -> None:
        code, out, _ = run(capsys, "vpk", "status")
        assert code == 0
        assert "8 objects of 1 tenants" in out

    def test_enable_and_disable(self, capsys: Capture, home: Home) -> None:
        code, out, err = run(capsys, "vpk", "enable", "--mode", "eve", "--port", "7433")
        assert code == 0
        assert "vpk_mode: eve" in out
        assert "kwaainet restart" in err
        assert "vpk_mode: eve" in home.config_yaml.read_text()
        run(capsys, "vpk", "disable")
        text = home.config_yaml.read_text()
        assert "off" in text.split("vpk_mode:")[1].split("\n")[0]

    def test_discover(self, capsys: Capture) -> None:
        assert "eva" in run(capsys, "vpk", "discover")[1]
        (row,) = json.loads(run(capsys, "vpk", "discover", "--json")[1])
        assert {"public_name", "peer_id", "mode", "capacity_gb", "tenant_count"} <= row.keys()

    def test_tenants(self, capsys: Capture, node: FakeNode) -> None:
        assert run(capsys, "vpk", "tenant", "create", "eva", "--capacity-mb", "64")[0] == 0
        assert "eva" in run(capsys, "vpk", "tenant", "list")[1]
        assert run(capsys, "vpk", "tenant", "info", "eva")[0] == 0
        assert "nothing at 'adam'" in run(capsys, "vpk", "tenant", "info", "adam")[2]
        assert run(capsys, "vpk", "tenant", "delete", PEER)[0] == 2
        assert run(capsys, "vpk", "tenant", "delete", PEER, "--yes")[0] == 0
        assert node.knowledge.calls == [("create_tenant", "eva", 64), ("delete_tenant", PEER)]

    def test_hosts_of_a_base(self, capsys: Capture, node: FakeNode) -> None:
        assert "Verified" in run(capsys, "vpk", "resolve")[1]
        assert run(capsys, "vpk", "audit", "--kb-id", "default")[0] == 0
        assert "3 objects put" in run(capsys, "vpk", "repair")[1]
        code, _, err = run(capsys, "vpk", "shard", "--kb-id", "default", "--eve-count", "4")
        assert (code, "at 1 of 4 hosts" in err) == (1, True)
        assert node.knowledge.calls == [("repair", "default", 0), ("repair", "default", 4)]

    def test_the_key_goes_to_a_new_device(
        self, capsys: Capture, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code, _, err = run(capsys, "vpk", "key", "export", str(tmp_path / "key"))
        assert code != 0
        assert "kwaainet rag init" in err
        from kwaai.config import load_config
        from kwaai.node.knowledge_home import KnowledgeHome

        tenant = KnowledgeHome(home, load_config(home.config_yaml).config).ensure_key().tenant()
        assert run(capsys, "vpk", "key", "export", str(tmp_path / "key"))[0] == 0
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600

        monkeypatch.setenv("KWAAINET_HOME", str(tmp_path / "new"))
        code, out, _ = run(capsys, "vpk", "key", "import", str(tmp_path / "key"), "--json")
        assert code == 0
        assert json.loads(out)["tenant"] == tenant.public.raw.hex()
        spoilt = (tmp_path / "key").read_text().replace("vpk1-", "vpk1-a", 1)
        (tmp_path / "spoilt").write_text(spoilt)
        code, _, err = run(capsys, "vpk", "key", "import", str(tmp_path / "spoilt"))
        assert code == 2
        assert spoilt.strip() not in err


def test_the_bench_is_a_command() -> None:
    assert callable(vpk_bench.add_bench)
