"""What a curious host does with what it stores: the attacks of test_vpk_attacks, and a small world
with a public embedding model to mount them in.

The attacker knows the model, and owns other texts of the same kind. The attacks and their power
against distance-preserving encryption: docs/vpk.md, "What was tried".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DIMENSION = 32
_WORDS, _TOPICS, _TOPIC_WORDS = 800, 20, 30
_PASSAGE_WORDS = 12
_random = np.random.default_rng(5)
_VECTORS = _random.standard_normal((_WORDS, DIMENSION)) * 0.9 ** np.arange(DIMENSION)
_COMMON = _random.standard_normal(DIMENSION) * 1.5  # real embeddings have a mean, too
_TOPIC = np.stack([_random.permutation(_WORDS)[:_TOPIC_WORDS] for _ in range(_TOPICS)])
_SHARES = 1 / np.arange(1, _TOPICS + 1) ** 1.2
_SYLLABLES = ["ka", "lo", "mi", "ne", "ru", "sa", "to", "vi", "zu", "pe"]

Floats = NDArray[np.float32]


def write_texts(count: int, seed: int) -> list[str]:
    """Passages about topics, some frequent and most not."""
    random = np.random.default_rng(seed)
    texts = []
    for topic in random.choice(_TOPICS, count, p=_SHARES / _SHARES.sum()):
        ranks = np.minimum(random.geometric(0.12, _PASSAGE_WORDS - 3) - 1, _TOPIC_WORDS - 1)
        words = [*_TOPIC[topic][ranks], *random.integers(0, _WORDS, 3)]
        texts.append(" ".join(_word(int(word)) for word in words))
    return texts


def embed(texts: Sequence[str]) -> Floats:
    """The public model: any attacker can compute it. (n, DIMENSION), of length 1."""
    numbers = [[_number(word) for word in text.split()] for text in texts]
    vectors = np.stack([_VECTORS[row].sum(axis=0) for row in numbers]) + _COMMON
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rotate(vectors: Floats, noise: float = 0.0) -> Floats:
    """Distance-preserving encryption, which is what others offer: a secret rotation, some noise."""
    random = np.random.default_rng(3)
    secret = np.linalg.qr(random.standard_normal((DIMENSION, DIMENSION)))[0]
    blur = random.standard_normal(vectors.shape) * noise / np.sqrt(DIMENSION)
    return (vectors @ secret + blur).astype(np.float32)


def as_vectors(sealed: Sequence[bytes], skip: int) -> Floats:
    """Sealed vectors as if they were none: the bytes where the numbers are, taken as numbers."""
    rows = [np.frombuffer(data, np.int8, DIMENSION, skip) for data in sealed]
    return np.stack(rows).astype(np.float32)


def identify(seen: Floats, candidates: Floats) -> float:
    """The share of rows whose nearest candidate is the true one: candidate i of row i."""
    nearest = (_units(seen) @ _units(candidates).T).argmax(axis=1)
    return float((nearest == np.arange(len(seen))).mean())


def align(seen: Floats, known: Floats) -> Floats:
    """Turn what is seen into the known model's space with no pair known: principal axes, their
    signs by skewness, then nearest neighbours both ways and Procrustes, again and again.
    """
    mine, turned_mine = _axes(seen)
    theirs, turned_theirs = _axes(known)
    turn = turned_mine @ turned_theirs.T
    for _ in range(30):
        near = _units(mine @ turn) @ _units(theirs).T
        best, back = near.argmax(axis=1), near.argmax(axis=0)
        pairs = np.flatnonzero(back[best] == np.arange(len(best)))
        left, _, right = np.linalg.svd(mine[pairs].T @ theirs[best[pairs]])
        turn = left @ right
    return mine @ turn


def recovered(found: Floats, true: Floats) -> float:
    """The mean cosine between what was found and what is true, less what all have in common."""
    return float((_units(found) * _units(true - true.mean(axis=0))).sum(axis=1).mean())


def similarity_correlation(seen: Floats, true: Floats, pairs: int = 50_000) -> float:
    """The correlation between similarities that are seen and those that are true."""
    random = np.random.default_rng(8)
    one, other = random.integers(0, len(seen), (2, pairs))
    apart = one != other
    one, other = one[apart], other[apart]
    left, right = _units(seen - seen.mean(axis=0)), _units(true)
    return float(
        np.corrcoef((left[one] * left[other]).sum(axis=1), (right[one] * right[other]).sum(axis=1))[
            0, 1
        ]
    )


def unevenness(data: bytes) -> float:
    """How far bytes are from all being equally frequent, in standard deviations of chance."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    return (chi_squared - 255) / np.sqrt(2 * 255)


def _axes(points: Floats) -> tuple[Floats, Floats]:
    centred = points - points.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2].T
    skewed = np.where((centred @ axes) ** 3 == 0, 0, (centred @ axes) ** 3).mean(axis=0)
    return centred, axes * np.where(skewed < 0, -1, 1)


def _units(rows: Floats) -> Floats:
    units: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units


def _word(number: int) -> str:
    return "".join(_SYLLABLES[int(digit)] for digit in f"{number:03d}")


def _number(word: str) -> int:
    return int("".join(str(_SYLLABLES.index(word[at : at + 2])) for at in range(0, len(word), 2)))
