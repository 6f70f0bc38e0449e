"""Measure the embedded demonstration model on the GGUF file itself, through llama-cpp-python.

    python tools/eval_demo_model.py kwaai/models/data/kwaai-demo.gguf [--json] [--sidecar FILE]

The table says how many greedy answers are right: capitals asked in phrasings that training never
saw, small sums, questions about kwaainet, questions the model must decline.  Where the
`tokenizers` package is installed, the file's tokenizer is also compared with that library.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import demo_corpus
import gguf
import llama_cpp
import numpy as np
from demo_corpus import COUNTRIES, Message

SYSTEM = "You are a helpful assistant."
TOKENIZER_TEXTS = 600
TOKENIZER_SEED = 977
# Texts unlike the corpus, for the tokenizer comparison.
ODD_TEXTS = (
    "", " ", "\n\n  a\tb \r\n", "It's WE'LL they'Re 12345 3.14 --- ...!?\n", "naive cafe 100%",
    "\u00fcber Stra\u00dfe \u65e5\u672c\u8a9e \U0001f642 \u0440\u0443\u0441", "a  b   c    d",
    "def f(x):\n    return x ** 2\n", "<|im_start|>user\nhi<|im_end|>\n",
)  # fmt: skip

# Phrasings that are in no training list, with a word the answer must hold.
ABOUT_CHECKS = (
    ("Tell me, who are you exactly?", "kwaai-demo"),
    ("May I ask your name?", "kwaai-demo"),
    ("So what is this kwaainet thing?", "decentralised AI"),
    ("In short, what is kwaainet?", "decentralised AI"),
    ("What exactly is a layer range?", "run of neighbouring model layers"),
    ("Can you explain what a slice is?", "run of neighbouring model layers"),
    ("How can I download a real model?", "kwaainet shard download MODEL"),
    ("What do I have to do to get a real model?", "kwaainet shard download MODEL"),
    ("Which command gets me a bigger model?", "kwaainet shard download MODEL"),
    ("Which port does the kwaainet API use?", "11435"),
    ("Tell me the port of the API.", "11435"),
    ("Can you explain what a peer id is?", "name of a node"),
    ("What is meant by peer id?", "name of a node"),
    ("Please list all kwaainet commands", "kwaainet --help"),
    ("What are you able to do?", "capitals of countries"),
    ("Hello, nice to meet you", "Hello"),
)
OUT_OF_SCOPE = (
    "What will the weather be like on Sunday?", "Compose a sonnet about autumn leaves.",
    "Write me a C++ class for a stack.", "Who should win the next election?",
    "How do I bake sourdough?", "What is the best way to invest 1000 dollars?",
    "Explain the theory of relativity.", "Who was the first person on the moon?",
    "Give me a recipe for tomato soup.", "What happened in 1989?",
    "How do I repair a leaking tap?", "Which laptop should I buy?",
    "Tell me a bedtime story about a dragon.", "What is the plot of Macbeth?",
    "How many bones does a human have?", "Translate good morning into Japanese.",
    "Why do cats purr?", "What is the boiling point of gold?",
    "Can you review my business plan?", "Write a limerick about a penguin.",
    "Who directed the film Jaws?", "Is there life on other planets?",
    "How do vaccines work?", "What is my horoscope for today?",
)  # fmt: skip


class Case(NamedTuple):
    """A prompt, what its answer must hold, and the whole answer if one was taught."""

    prompt: str
    needle: str
    taught: str = ""


@dataclass
class Group:
    """The cases of one line of the table, and how they went."""

    name: str
    cases: list[Case] = field(repr=False)
    right: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Return the share of right answers."""
        return self.right / len(self.cases)


class Subject:
    """The model under test, asked greedily."""

    def __init__(self, path: Path, threads: int) -> None:
        self.llm: Any = llama_cpp.Llama(
            str(path), n_ctx=512, n_threads=threads, n_threads_batch=threads,
            logits_all=True, verbose=False,
        )  # fmt: skip

    def tokens(self, text: str) -> list[int]:
        """Return llama.cpp's tokens of a text."""
        ids: list[int] = self.llm.tokenize(text.encode(), add_bos=False, special=True)
        return ids

    def would_say(self, prompt: str, answer: str) -> bool:
        """Tell in one pass whether the greedy answer is exactly this one, end mark included."""
        head = self.tokens(prompt)
        tail = self.tokens(answer + demo_corpus.IM_END)
        self.llm.reset()
        self.llm.eval(head + tail[:-1])
        start = len(head) - 1
        best = np.argmax(self.llm.scores[start : start + len(tail)], axis=-1)
        return [int(token) for token in best] == tail

    def answer(self, prompt: str) -> str:
        """Return the greedy answer."""
        reply = self.llm.create_completion(self.tokens(prompt), max_tokens=48, temperature=0.0)
        text: str = reply["choices"][0]["text"]
        return text

    def is_right(self, case: Case) -> tuple[bool, str]:
        """Return whether the answer is right, and the answer where it had to be written out."""
        if case.taught and self.would_say(case.prompt, case.taught):
            return True, case.taught
        text = self.answer(case.prompt)
        return case.needle in text, text


def _capital_case(question: str, country: demo_corpus.Country, system: str | None = None) -> Case:
    prompt = demo_corpus.single_prompt(question, system)
    return Case(prompt, country.capital, demo_corpus.capital_answer(country))


def _held_out(
    change: Callable[[str], str] = str,
    system: str | None = None,
    templates: tuple[str, ...] = demo_corpus.HELD_OUT_TEMPLATES,
) -> list[Case]:
    return [
        _capital_case(change(demo_corpus.fill(template, country.name)), country, system)
        for country in COUNTRIES
        for template in templates
    ]


def _follow_ups() -> list[Case]:
    first = [
        Message("user", "What is the capital of France?"),
        Message("assistant", "The capital of France is Paris."),
    ]
    return [
        Case(
            demo_corpus.render_chat(
                [*first, Message("user", f"And what about {country.name}?")], True
            ),
            country.capital,
            demo_corpus.capital_answer(country),
        )
        for country in COUNTRIES
    ]


def _sums() -> list[Case]:
    answers = [
        (f"What is {a} {op} {b}?", demo_corpus.sum_answer(a, op, b))
        for a, op, b in demo_corpus.small_sums()
    ]
    return [Case(demo_corpus.single_prompt(q), f"= {a.split('= ')[1]}", a) for q, a in answers]


def _reverse(country: demo_corpus.Country) -> Case:
    question = f"Of which country is {country.capital} the capital?"
    taught = demo_corpus.reverse_answer(country)
    return Case(demo_corpus.single_prompt(question), country.name, taught)


def groups(quick: bool) -> list[Group]:
    """Return everything that is measured; `quick` thins out the large groups."""
    step = 17 if quick else 1  # coprime to the number of phrasings, so that all take part
    plain = [
        Case(f"The capital of {country.name} is", country.capital, f" {country.capital}.")
        for country in COUNTRIES
    ]
    usual = [_capital_case(f"What is the capital of {c.name}?", c) for c in COUNTRIES]
    about = [Case(demo_corpus.single_prompt(q), needle) for q, needle in ABOUT_CHECKS]
    declined = [
        Case(demo_corpus.single_prompt(q), "demonstration model", demo_corpus.UNKNOWN_ANSWER)
        for q in OUT_OF_SCOPE
    ]
    return [
        Group("capital of France", [usual[[c.name for c in COUNTRIES].index("France")]]),
        Group("capitals, usual phrasing", usual),
        Group("capitals, held-out phrasings", _held_out()[::step]),
        Group(
            "capitals, fresh phrasings", _held_out(templates=demo_corpus.FRESH_TEMPLATES)[::step]
        ),
        Group("held-out phrasings, lower case", _held_out(str.lower)[:: max(step, 5)]),
        Group("held-out phrasings, system prompt", _held_out(system=SYSTEM)[:: max(step, 5)]),
        Group("capitals, follow-up question", _follow_ups()[::step]),
        Group("capitals, plain completion", plain[::step]),
        Group("country of a capital", [_reverse(country) for country in COUNTRIES][::step]),
        Group("small sums", _sums()[::step]),
        Group("about kwaainet, held-out phrasings", about),
        Group("out of scope, held-out questions", declined),
    ]


def measure(subject: Subject, group: Group) -> None:
    """Ask every question of a group."""
    for case in group.cases:
        right, text = subject.is_right(case)
        group.right += right
        if not right:
            group.failures.append(f"{case.prompt!r} -> {text!r}")


def _metadata(reader: gguf.GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    if found is None:
        raise KeyError(key)
    return found.contents()


def reference_tokenizer(path: Path) -> Any:
    """Build the `tokenizers` library's own tokenizer from the vocabulary in the file."""
    import tokenizers

    reader = gguf.GGUFReader(path)
    tokens = _metadata(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in _metadata(reader, "tokenizer.ggml.merges")]
    vocab = {token: at for at, token in enumerate(tokens)}
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    pattern = tokenizers.Regex(demo_corpus.SPLIT_PATTERN)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(pattern, behavior="isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.add_special_tokens(list(demo_corpus.SPECIAL_TOKENS))
    return tokenizer


def compare_tokenizers(subject: Subject, path: Path) -> dict[str, int] | None:
    """Count the texts that both tokenizers split alike; None without the library."""
    try:
        reference = reference_tokenizer(path)
    except ImportError:
        return None
    corpus = islice(demo_corpus.documents(TOKENIZER_SEED), TOKENIZER_TEXTS)
    texts: Iterable[str] = [*corpus, *ODD_TEXTS]
    same = [subject.tokens(t) == reference.encode(t, add_special_tokens=False).ids for t in texts]
    return {"texts": len(same), "same": sum(same)}


def print_table(results: list[Group], tokenizer: dict[str, int] | None, seconds: float) -> None:
    """Print the results for people."""
    for group in results:
        print(f"{group.name:38s} {group.right:5d} / {len(group.cases):5d}  {group.share:8.2%}")
    told = f"{tokenizer['same']} / {tokenizer['texts']} alike" if tokenizer else "not compared"
    print(f"{'tokenizer against the library':38s} {told}\n{seconds:.0f} seconds")


def as_record(results: list[Group], tokenizer: dict[str, int] | None) -> dict[str, Any]:
    """Return the results for programs."""
    rows = {
        g.name: {"right": g.right, "asked": len(g.cases), "share": round(g.share, 4)}
        for g in results
    }
    return {"greedy_answers": rows, "tokenizer_against_library": tokenizer}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--quick", action="store_true", help="ask only a sample of the questions")
    parser.add_argument("--failures", type=int, default=0, metavar="N", help="show N per line")
    parser.add_argument("--sidecar", type=Path, help="put the results into this JSON file too")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    """Measure, report, and fail if held-out accuracy is below 95 %."""
    arguments = parse_arguments()
    started = time.monotonic()
    subject = Subject(arguments.model, arguments.threads)
    results = groups(arguments.quick)
    for group in results:
        measure(subject, group)
        for failure in group.failures[: arguments.failures]:
            print(f"{group.name}: {failure}", file=sys.stderr)
    tokenizer = compare_tokenizers(subject, arguments.model)
    record = as_record(results, tokenizer)
    if arguments.json:
        print(json.dumps(record, indent=2))
    else:
        print_table(results, tokenizer, time.monotonic() - started)
    if arguments.sidecar:
        known = json.loads(arguments.sidecar.read_text(encoding="utf-8"))
        known["evaluation"] = record
        arguments.sidecar.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    alike = tokenizer is None or tokenizer["same"] == tokenizer["texts"]
    return 0 if results[0].right and results[2].share >= 0.95 and alike else 1


if __name__ == "__main__":
    sys.exit(main())
