"""Which value wins, what is refused and by which line, and what `config set` leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai import limits
from kwaai.config import KEYS, Config, LoadedConfig, Source, load_config
from kwaai.config.file import parse_entries, replace_value
from kwaai.config.load import set_value
from kwaai.errors import ConfigError, UserError

PEER_A = "/ip4/192.0.2.1/tcp/8080/p2p/12D3KooWGBfqLAFfDnsaRCT5Zt4Xf1bXAi7xYXcAzCKQxCfCPPnw"
PEER_B = "/dns4/node.example/tcp/1/p2p/12D3KooWGBfqLAFfDnsaRCT5Zt4Xf1bXAi7xYXcAzCKQxCfCPPnw"
LINKS = ("192.0.2.1:81", "[2001:db8::7]:81")


def load(text: str, tmp_path: Path, **more: object) -> LoadedConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, environment=more.pop("environment", {}), flags=more)  # type: ignore[arg-type]


def test_defaults_without_a_file(tmp_path: Path) -> None:
    loaded = load_config(tmp_path / "config.yaml", environment={})
    assert loaded.config == Config()
    assert {s.source for s in loaded.settings} == {Source.DEFAULT}
    assert [s.key for s in loaded.settings] == list(KEYS)
    assert loaded.setting("slices").text == "auto"
    assert loaded.setting("api_key_file").text == "none"
    assert loaded.setting("use_gpu").text == "true"


def test_precedence(tmp_path: Path) -> None:
    text = "# mine\nmodel: file\nslices: 2\napi_port: 1\nthreads: 3\n"
    environment = {"KWAAINET_MODEL": "environment", "KWAAINET_SLICES": "4", "KWAAINET_THREADS": ""}
    loaded = load(text, tmp_path, environment=environment, model="flag", max_sessions=None)
    found = {
        key: (loaded.setting(key).value, loaded.setting(key).source, loaded.setting(key).origin)
        for key in ("model", "slices", "api_port", "threads", "max_sessions")
    }
    assert found == {
        "model": ("flag", Source.FLAG, "--model"),
        "slices": (4, Source.ENVIRONMENT, "KWAAINET_SLICES"),
        "api_port": (1, Source.FILE, "config.yaml:4"),
        "threads": (3, Source.FILE, "config.yaml:5"),
        "max_sessions": (4, Source.DEFAULT, ""),
    }


def test_variables_that_mean_nothing_are_named(tmp_path: Path) -> None:
    environment = {"KWAAINET_MODLE": "x", "KWAAINET_HOME": "/h", "KWAAINET_MODEL": "m", "PATH": "p"}
    assert load("", tmp_path, environment=environment).unknown_variables == ("KWAAINET_MODLE",)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("", "model", "kwaai-demo"),
        ("---\n", "model", "kwaai-demo"),
        ("# only a comment\n", "model", "kwaai-demo"),
        ("model: 'a b' # why\n", "model", "a b"),
        ("model: 123\n", "model", "123"),
        ('model: "null"\n', "model", "null"),
        ("model: no\n", "model", "no"),
        ("slices: auto\n", "slices", None),
        ("slices:\n", "slices", None),
        ("slices: ~\n", "slices", None),
        ("slices: 8\n", "slices", 8),
        ("slices: '8'\n", "slices", 8),
        ("use_gpu: no\n", "use_gpu", False),
        ("use_gpu: 'false'\n", "use_gpu", False),
        ("{model: x, slices: 3}\n", "slices", 3),
        ("model: |\n  block\n", "model", "block"),
        ("api_key_file: /k\n", "api_key_file", Path("/k")),
        ("bootstrap_peers:\n", "bootstrap_peers", ()),
        ("bootstrap_peers: none\n", "bootstrap_peers", ()),
        ("bootstrap_peers: []\n", "bootstrap_peers", ()),
        (f"bootstrap_peers: {PEER_A}\n", "bootstrap_peers", (PEER_A,)),
        (f"bootstrap_peers: {PEER_A}, {PEER_B}\n", "bootstrap_peers", (PEER_A, PEER_B)),
        (f"bootstrap_peers: [{PEER_A}, '{PEER_B}']\n", "bootstrap_peers", (PEER_A, PEER_B)),
        (f"bootstrap_peers:\n  - {PEER_A}\n  - {PEER_A}\n", "bootstrap_peers", (PEER_A,)),
        ("serve: 8:16\n", "serve", "8:16"),
        ("serve: auto\n", "serve", "auto"),
        ("link_port: auto\n", "link_port", None),
        ("announce_links: none\n", "announce_links", ()),
        ("announce_links: ['192.0.2.1:81', '[2001:db8::7]:81']\n", "announce_links", LINKS),
        ("link_port: 0\n", "link_port", 0),
    ],
)
def test_accepted(text: str, key: str, value: object, tmp_path: Path) -> None:
    assert load(text, tmp_path).setting(key).value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\nmodle: x\n", "config.yaml:3: unknown key 'modle' - did you mean 'model'?"),
        ("min_tier: x\n", "unknown key 'min_tier' - did you mean tier_serve or tier_early_layers"),
        ("zzzz: x\n", "config.yaml:1: unknown key 'zzzz'; the keys are model, slices,"),
        ("model: a\nmodel: b\n", "config.yaml:2: 'model' is set twice (first on line 1)"),
        ("model:\n", "config.yaml:1: model needs a value"),
        ("model: ''\n", "config.yaml:1: model: must not be empty"),
        (
            f"public_name: {'x' * 65}\n",
            "config.yaml:1: public_name: must have at most 64 characters",
        ),
        ("slices: 0\n", "config.yaml:1: slices: must be at least 1, not '0'"),
        ("slices: -3\n", "config.yaml:1: slices: "),
        ("slices: yes\n", "config.yaml:1: slices: must be a whole number, not 'yes'"),
        ("slices: 1.5\n", "config.yaml:1: slices: must be a whole number, not '1.5'"),
        ("slices: 1e3\n", "config.yaml:1: slices: must be a whole number"),
        (
            "model: x\napi_port: 65536\n",
            "config.yaml:2: api_port: must be at most 65535, not '65536'",
        ),
        ("use_gpu: perhaps\n", "config.yaml:1: use_gpu: must be true or false, not 'perhaps'"),
        ("identity_key: my.key\n", "config.yaml:1: identity_key: must be an absolute path"),
        ("log_level: loud\n", "config.yaml:1: log_level: should be 'debug', 'info'"),
        ('model: "a\\nb"\n', "config.yaml:1: model: must be one line of printable characters"),
        ("serve: 8:8\n", "config.yaml:1: serve: must be none, auto, or START:STOP"),
        ("serve: 8-16\n", "config.yaml:1: serve: must be none, auto, or START:STOP"),
        ("announce_links: 1.2.3.4\n", "config.yaml:1: announce_links: must be addresses such as"),
        ("announce_links: a.b:81\n", "config.yaml:1: announce_links: must be addresses such as"),
        ("announce_links: a:0\n", "config.yaml:1: announce_links: must be addresses such as"),
        ("announce_links: ::1:81\n", "config.yaml:1: announce_links: must be addresses such as"),
        ("route: all\n", "config.yaml:1: route: should be 'auto', 'alone', 'peer' or 'split'"),
        ("bootstrap_peers: 1.2.3.4\n", "config.yaml:1: bootstrap_peers: must be addresses"),
        (f"bootstrap_peers: {PEER_A}/x\n", "config.yaml:1: bootstrap_peers: must be addresses"),
        ("bootstrap_peers: [[a]]\n", "config.yaml:1: a list takes plain values, not a list"),
        ("bootstrap_peers: [a: b]\n", "config.yaml:1: a list takes plain values, not a list"),
        ("bootstrap_peers: ['a,b']\n", "config.yaml:1: a value in a list must not be empty or"),
        ("bootstrap_peers: &a [b]\n", "config.yaml:1: anchors (&name) are not allowed"),
        ("bootstrap_peers: !x [b]\n", "config.yaml:1: tags (!x) are not allowed"),
        ("bootstrap_peers: [*a]\n", "config.yaml:1: aliases (*name) are not allowed"),
        ("model: [a, b]\n", "config.yaml:1: 'model' takes one plain value, not a list or mapping"),
        ("model:\n  a: b\n", "config.yaml:2: 'model' takes one plain value, not a list or mapping"),
        ("- a\n", "config.yaml:1: expected lines of the form `key: value`"),
        ("just text\n", "config.yaml:1: expected lines of the form `key: value`"),
        ("model: &a x\n", "config.yaml:1: anchors (&name) are not allowed"),
        ("model: *a\n", "config.yaml:1: aliases (*name) are not allowed"),
        ("<<: *a\n", "config.yaml:1: "),
        ("model: !!python/name:os.system x\n", "config.yaml:1: tags ("),
        ("model: !x y\n", "config.yaml:1: tags (!x) are not allowed"),
        ("? [a]\n: b\n", "config.yaml:1: a key must be a plain word, not a list or mapping"),
        ("model: x\n---\nmodel: y\n", "config.yaml:3: a second YAML document; one is expected"),
        ("model: x\n...\n- y\n", "config.yaml:3: not valid YAML: expected '<document start>'"),
        ("model: 'x\n", "config.yaml:2: not valid YAML: "),
        ("model: x: y\n", "config.yaml:1: not valid YAML: "),
        ("\tmodel: x\n", "config.yaml:1: not valid YAML: "),
        ("model: x\x00\n", "config.yaml:1: a character that YAML does not allow"),
        ("[" * 100_000, "config.yaml:1: expected lines of the form"),
        ("model: " + "[" * 100_000, "config.yaml:1: 'model' takes one plain value"),
        ("# " + "x" * limits.CONFIG_BYTES_MAX, "config.yaml is no config.yaml: it is over"),
    ],
)
def test_refused_by_name_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused_at_its_first_anchor(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)
    ]
    with pytest.raises(ConfigError, match=r"config\.yaml:1: "):
        load("\n".join(lines), tmp_path)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"model: x\n\xff\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:2: not UTF-8 text"):
        load_config(path, environment={})


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        load_config(tmp_path / "config.yaml", environment={})


def test_bad_flags_and_variables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KWAAINET_API_PORT: api_port: must be a whole number"):
        load("", tmp_path, environment={"KWAAINET_API_PORT": "http"})
    with pytest.raises(UserError, match=r"--max-sessions: must be at least 1, not '0'") as caught:
        load("", tmp_path, max_sessions=0)
    assert caught.value.exit_code == 2  # the command line's fault, not the configuration's


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        entries = parse_entries(text, "config.yaml")
    except ConfigError as error:
        assert str(error).startswith("config.yaml:")  # noqa: PT017
    else:
        for entry in entries.values():
            assert 0 <= entry.start <= entry.stop <= len(text)


class TestSet:
    def test_keeps_every_other_line(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("# top\nmodel: old   # which\n\nslices: 2\n# end\n")
        change = set_value(path, "model", "new")
        assert (change.before, change.after, change.source_before) == ("old", "new", Source.FILE)
        assert path.read_text() == "# top\nmodel: new   # which\n\nslices: 2\n# end\n"
        assert path.stat().st_mode & 0o777 == 0o600

    def test_creates_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        set_value(path, "model", "m")
        assert path.read_text() == "model: m\n"
        assert sorted(p.name for p in tmp_path.iterdir()) == [".config.yaml.lock", "config.yaml"]

    def test_takes_the_place_of_the_commented_default(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("# The model.\n#model: kwaai-demo\n\n# Slices.\n#slices: auto\n")
        set_value(path, "slices", "4")
        assert path.read_text() == "# The model.\n#model: kwaai-demo\n\n# Slices.\nslices: 4\n"

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("model: x", "model: new"),
            ("model: 'x'\n", "model: new\n"),
            ('model: "x"', "model: new"),
            ("model: |\n  a\n  b\nslices: 2\n", "model: new\nslices: 2\n"),
            ("{model: x, slices: 2}\n", "{model: new, slices: 2}\n"),
            ("slices: 2", "slices: 2\nmodel: new\n"),
        ],
    )
    def test_every_style(self, before: str, after: str) -> None:
        assert replace_value(before, "config.yaml", "model", "new") == after

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (f"bootstrap_peers: [{PEER_B}] # mine\n", f"bootstrap_peers: {PEER_A} # mine\n"),
            (
                f"bootstrap_peers:\n  - {PEER_B}  # mine\n# next\nslices: 2\n",
                f"bootstrap_peers:\n  {PEER_A}  # mine\n# next\nslices: 2\n",
            ),
        ],
    )
    def test_a_list(self, before: str, after: str, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(before)
        assert set_value(path, "bootstrap_peers", PEER_A).before == PEER_B
        assert path.read_text() == after
        assert set_value(path, "bootstrap_peers", "none").after == "none"
        assert load_config(path, environment={}).config.bootstrap_peers == ()

    def test_null_and_back(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("slices:\nmodel: m\n")
        set_value(path, "slices", "4")
        assert path.read_text() == "slices: 4\nmodel: m\n"
        assert set_value(path, "slices", "auto").after == "auto"
        assert path.read_text() == "slices: null\nmodel: m\n"

    def test_repairs_a_bad_value(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("slices: many\n")
        assert set_value(path, "slices", "3").before == "(invalid)"
        assert path.read_text() == "slices: 3\n"

    @pytest.mark.parametrize(
        ("content", "key", "value", "message"),
        [
            ("", "modle", "x", "unknown key 'modle' - did you mean 'model'?"),
            ("", "slices", "many", "slices: must be a whole number, not 'many'"),
            ("", "model", "", "model: "),
            ("modle: x\n", "slices", "3", "config.yaml:1: unknown key 'modle'"),
            ("threads: x\n", "slices", "3", "config.yaml:1: threads: must be a whole number"),
            ("{slices: 2}\n", "model", "x", "edit it by hand: model: x"),
            ("slices: 2\n...\n", "model", "x", "edit it by hand: model: x"),
        ],
    )
    def test_refused_and_unchanged(
        self, content: str, key: str, value: str, message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            set_value(path, key, value)
        assert message in str(caught.value)
        assert path.read_text() == content

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        target = tmp_path / "dotfiles.yaml"
        target.write_text("slices: 2\n")
        path = tmp_path / "config.yaml"
        path.symlink_to(target)
        set_value(path, "slices", "3")
        assert path.is_symlink()
        assert target.read_text() == "slices: 3\n"

    @given(
        value=st.text(min_size=1, max_size=40).filter(str.isprintable),
        comment=st.text(max_size=20).filter(str.isprintable),
    )
    @settings(max_examples=100, deadline=None)
    def test_any_printable_value_round_trips(self, value: str, comment: str) -> None:
        text = f"# {comment}\nmodel: old # {comment}\nslices: 2\n"
        after = replace_value(text, "config.yaml", "model", value)
        entries = parse_entries(after, "config.yaml")
        assert (entries["model"].text, entries["slices"].text) == (value, "2")
        assert after.startswith(f"# {comment}\n")
