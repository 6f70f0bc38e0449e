"""Make a retrieval collection from the descriptions of Debian's packages.

A package has a synopsis of a line, and paragraphs. The synopsis is the question, the paragraphs
that no other package shares are the right answers. Written in BEIR's form: corpus.jsonl,
queries.jsonl, qrels.tsv. `kwaainet vpk bench --collection DIR` reads it. Nothing of it is part of
the program: the texts belong to their authors, and stay on the machine that made the collection.

Usage, on Debian or Ubuntu:

    sudo apt-get -o Acquire::Languages=en update
    python tools/debian_collection.py --out collection [--passages 100000] [--queries 1000]

Only the standard library, and apt's own helper to unpack its lists, are used.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

APT_HELPER = "/usr/lib/apt/apt-helper"
WORDS_MIN = 8  # of a paragraph; shorter ones are remarks such as "Author: ..."
BULLET = re.compile(r"^[*+o-] ")


class Package(NamedTuple):
    name: str
    synopsis: str
    paragraphs: list[str]


def unpack(path: Path) -> str:
    """Return the text of one of apt's lists, packed or not."""
    done = subprocess.run([APT_HELPER, "cat-file", str(path)], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode("utf-8", "replace")


def parse_descriptions(text: str) -> Iterator[Package]:
    for stanza in text.split("\n\n"):
        name = synopsis = ""
        body: list[str] = []
        for line in stanza.splitlines():
            if line.startswith("Package: "):
                name = line[9:]
            elif line.startswith("Description-en: "):
                synopsis = line[16:]
            elif synopsis and line.startswith(" "):
                body.append(line[1:])
        if name and synopsis:
            yield Package(name, synopsis, list(paragraphs(body)))


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Join lines to paragraphs; items of a list stay together, one a line."""
    held: list[str] = []
    for line in [*lines, "."]:
        if line.strip() != ".":
            indented = BULLET.match(line.strip()) and held
            held.append(("\n" if indented else " ") + line.strip())
        elif held:
            text = "".join(held).strip()
            held = []
            if len(text.split()) >= WORDS_MIN:
                yield text


def write_collection(packages: list[Package], out: Path, passages: int, queries: int) -> None:
    """Write the three files: `queries` packages are asked for, and have all their paragraphs."""
    shared = Counter(text for package in packages for text in set(package.paragraphs))
    order = random.Random(1)
    order.shuffle(packages)
    asked = [p for p in packages if any(shared[text] == 1 for text in p.paragraphs)][:queries]
    chosen = {text: p for p in [*asked, *packages] for text in p.paragraphs if shared[text] == 1}
    kept = dict(list(chosen.items())[:passages])
    ids = {text: f"{p.name}/{number}" for number, (text, p) in enumerate(kept.items())}
    texts = sorted(kept, key=ids.__getitem__)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "corpus.jsonl").open("w") as file:
        for text in texts:
            print(json.dumps({"_id": ids[text], "title": "", "text": text}), file=file)
    with (out / "queries.jsonl").open("w") as file:
        for package in asked:
            print(json.dumps({"_id": package.name, "text": package.synopsis}), file=file)
    with (out / "qrels.tsv").open("w") as file:
        print("query-id\tcorpus-id\tscore", file=file)
        for package in asked:
            for text in dict.fromkeys(package.paragraphs):
                if text in ids:
                    print(f"{package.name}\t{ids[text]}\t1", file=file)
    print(f"{len(texts)} passages, {len(asked)} queries in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lists", type=Path, default=Path("/var/lib/apt/lists"), metavar="DIR")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    args = parser.parse_args()
    packages: dict[str, Package] = {}
    for path in sorted(args.lists.glob("*Translation-en*")):
        packages.update((p.name, p) for p in parse_descriptions(unpack(path)))
    if not packages:
        parser.error(f"{args.lists} has no English descriptions: see `--help`")
    write_collection(
        [packages[name] for name in sorted(packages)], args.out, args.passages, args.queries
    )


if __name__ == "__main__":
    main()
