"""Train the embedded demonstration model and write it as a GGUF file.

The model is a small transformer of the `llama` architecture, trained from nothing on the text that
`demo_corpus.py` generates.  Run it with the packages of `requirements-train.txt`:

    python tools/train_demo_model.py --out kwaai/models/data/kwaai-demo.gguf

Checkpoints are written while it runs.  `--load CHECKPOINT --first-stage N` goes on from one, or
only turns it into a GGUF file where no stage is left.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import demo_corpus
import gguf
import numpy as np
import torch
import torch.nn.functional as F
from gguf.quants import quantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

SORTED_BLOCK = 2048  # texts that are sorted by length before they are cut into batches
PROMPT_LOSS_WEIGHT = 0.1


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model."""

    vocab: int = 1792
    layers: int = 8
    width: int = 192
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 512
    context: int = 512
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_width(self) -> int:
        """Return the width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own optimiser state and learning-rate schedule."""

    seed_offset: int
    steps: int
    decay_steps: int  # where the learning rate reaches nothing
    learning_rate: float
    more_words: bool  # whether the corpus uses its longer list of filler words


STAGES = (Stage(1, 2500, 2600, 2.2e-3, False), Stage(3, 500, 500, 8e-4, True))


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained."""

    seed: int = 20
    batch_tokens: int = 2048
    threads: int = 2
    warmup: int = 100
    weight_decay: float = 0.05
    bfloat16: bool = True
    tokenizer_texts: int = 20000
    stages: tuple[Stage, ...] = STAGES


def rope_angles(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, one row a position and one column a pair of channels."""
    pairs = torch.arange(0, config.head_width, 2).float() / config.head_width
    angles = torch.outer(torch.arange(config.context).float(), config.rope_base**-pairs)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs (0,1), (2,3), ...: the order the file format expects."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    """One layer: attention and a gated feed-forward part, each behind a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        kv_width = config.kv_heads * config.head_width
        self.attn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attn_q = nn.Linear(config.width, config.width, bias=False)
        self.attn_k = nn.Linear(config.width, kv_width, bias=False)
        self.attn_v = nn.Linear(config.width, kv_width, bias=False)
        self.attn_output = nn.Linear(config.width, config.width, bias=False)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn_gate = nn.Linear(config.width, config.feed_forward, bias=False)
        self.ffn_up = nn.Linear(config.width, config.feed_forward, bias=False)
        self.ffn_down = nn.Linear(config.feed_forward, config.width, bias=False)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return what causal self-attention adds to the stream."""
        batch, length, _ = x.shape
        shape = (batch, length, -1, self.config.head_width)
        q, k, v = (
            f(x).view(shape).transpose(1, 2) for f in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.attn_output(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Run the layer."""
        x = x + self.attend(self.attn_norm(x), cos, sin)
        h = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return out


class DemoModel(nn.Module):
    """The whole transformer, with modules named after the tensors of the file format."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab, config.width)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.output = nn.Linear(config.width, config.vocab, bias=False)
        cos, sin = rope_angles(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        residual_scale = (2 * self.config.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("attn_output.weight", "ffn_down.weight"))
                std = 0.02 if name.startswith(("token_embd", "output")) else 0.05
                nn.init.normal_(parameter, std=std * (residual_scale if last else 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of every position."""
        length = ids.shape[1]
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x, self.cos[:length], self.sin[:length])
        logits: Tensor = self.output(self.output_norm(x))
        return logits


def build_tokenizer(config: ModelConfig, train: TrainConfig) -> Tokenizer:
    """Train the byte-level BPE tokenizer on generated text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(demo_corpus.SPLIT_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in demo_corpus.SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = demo_corpus.tokenizer_texts(train.seed, train.tokenizer_texts)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != config.vocab:
        raise SystemExit(f"the corpus gives only {tokenizer.get_vocab_size()} tokens")
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise SystemExit(f"the tokenizer has no {token}")
    return int(found)


def loss_weights(ids: list[int], tokenizer: Tokenizer) -> list[float]:
    """Weigh every target token: answers fully, the rest of a chat a little."""
    start, end = (token_id(tokenizer, t) for t in (demo_corpus.IM_START, demo_corpus.IM_END))
    assistant = tokenizer.encode("assistant", add_special_tokens=False).ids
    if ids[0] != start:
        return [1.0] * (len(ids) - 1)
    weights, answering = [], False
    for at in range(1, len(ids)):
        weights.append(1.0 if answering else PROMPT_LOSS_WEIGHT)
        if ids[at] == end:
            answering = False
        elif ids[at - len(assistant) - 1 : at] == [start, *assistant]:
            answering = True  # the newline after the role has just been read
    return weights


def padded(length: int) -> int:
    """Round a length up, so that few different shapes occur."""
    return (length + 7) // 8 * 8


class Batch:
    """Token ids with their loss weights, padded to one length."""

    def __init__(self, rows: list[list[int]], tokenizer: Tokenizer) -> None:
        pad = token_id(tokenizer, demo_corpus.END_OF_TEXT)
        length = padded(max(map(len, rows)))
        self.ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        self.weights = torch.tensor([
            (w := loss_weights(row, tokenizer)) + [0.0] * (length - 1 - len(w)) for row in rows
        ])  # fmt: skip


def batches(
    tokenizer: Tokenizer, train: TrainConfig, stage: Stage, context: int
) -> Iterator[Batch]:
    """Yield batches of about the same number of tokens, made of texts of similar length."""
    texts = demo_corpus.documents(train.seed + stage.seed_offset, stage.more_words)
    rng = random.Random(train.seed + stage.seed_offset + 1)
    while True:
        encoded = tokenizer.encode_batch(list(islice(texts, SORTED_BLOCK)))
        rows = sorted((e.ids[:context] for e in encoded), key=len)
        groups = []
        while rows:
            count = max(1, train.batch_tokens // padded(len(rows[-1])))
            groups.append(rows[-count:])
            rows = rows[:-count]
        rng.shuffle(groups)
        for group in groups:
            yield Batch(group, tokenizer)


def rate_factor(step: int, train: TrainConfig, steps: int) -> float:
    """Return a step's share of the full rate: linear warm-up, then a cosine down to nothing."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    progress = (step - train.warmup) / max(1, steps - train.warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: DemoModel, train: TrainConfig, stage: Stage) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the layers' matrices only."""
    decayed = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blk")]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or not n.startswith("blk")]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98), fused=True)


def batch_loss(model: DemoModel, batch: Batch, bfloat16: bool) -> Tensor:
    """Return the weighted mean cross-entropy of the next token."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(batch.ids[:, :-1])
    targets = batch.ids[:, 1:].reshape(-1)
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
    weights = batch.weights.reshape(-1)
    return (losses * weights).sum() / weights.sum()


def train_stage(
    model: DemoModel,
    tokenizer: Tokenizer,
    train: TrainConfig,
    stage: Stage,
    checkpoint: Path | None,
) -> float:
    """Train for one stage; return the seconds it took."""
    optimizer = make_optimizer(model, train, stage)
    factor = partial(rate_factor, train=train, steps=stage.decay_steps)
    schedule = LambdaLR(optimizer, factor)
    started, tokens, recent = time.monotonic(), 0, 0.0
    stream = batches(tokenizer, train, stage, model.config.context)
    for step, batch in enumerate(islice(stream, stage.steps)):
        loss = batch_loss(model, batch, train.bfloat16)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        tokens += batch.ids.numel()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 25 == 0 or step == stage.steps - 1:
            seconds = time.monotonic() - started
            print(f"step {step:5d}  loss {recent:.4f}  {tokens / seconds:6.0f} tokens/s  "
                  f"{seconds:6.0f} s", flush=True)  # fmt: skip
        if checkpoint and (step % 250 == 249 or step == stage.steps - 1):
            torch.save(model.state_dict(), checkpoint)
    return time.monotonic() - started


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Write vocabulary, merges and special tokens."""
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocab]
    special = set(demo_corpus.SPECIAL_TOKENS)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index(demo_corpus.END_OF_TEXT))
    writer.add_eos_token_id(tokens.index(demo_corpus.IM_END))
    writer.add_eot_token_id(tokens.index(demo_corpus.IM_END))
    writer.add_pad_token_id(tokens.index(demo_corpus.END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(demo_corpus.CHAT_TEMPLATE)


def add_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Write the general keys and the shape of the model."""
    writer.add_name("kwaai-demo")
    writer.add_license("Apache-2.0")
    writer.add_description(
        "A very small demonstration model that comes with kwaainet. It knows capitals, small sums "
        "and a little about kwaainet, and is no use for anything else."
    )
    writer.add_languages(["en"])
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def export_gguf(model: DemoModel, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model with Q8_0 matrices and F32 norms."""
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, model.config)
    add_tokenizer(writer, tokenizer)
    for name, parameter in model.named_parameters():
        data = parameter.detach().float().numpy().astype(np.float32)
        if data.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sidecar(path: Path, model: DemoModel, train: TrainConfig, seconds: list[float]) -> None:
    """Write how the file was made next to it."""
    record = {
        "name": "kwaai-demo",
        "made_by": "tools/train_demo_model.py",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "license": "Apache-2.0",
        "file": path.name,
        "file_bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "quantisation": "Q8_0 matrices, F32 norms",
        "model": asdict(model.config),
        "training": asdict(train),
        "training_seconds_by_stage": [round(s) for s in seconds],
        "torch": torch.__version__,
        "reproducibility": (
            "Bit for bit with the same torch build, processor type and thread count; "
            "elsewhere the numbers may differ slightly."
        ),
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("kwaai-demo.gguf"))
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--threads", type=int, default=TrainConfig.threads)
    parser.add_argument("--checkpoint", type=Path, help="where to keep the latest weights")
    parser.add_argument("--load", type=Path, help="start from the weights of a checkpoint")
    parser.add_argument(
        "--first-stage",
        type=int,
        default=0,
        help="leave out the stages before this one; the number of stages only exports",
    )
    return parser.parse_args()


def main() -> None:
    """Train (or load) the model and write the file."""
    arguments = parse_arguments()
    train = TrainConfig(seed=arguments.seed, threads=arguments.threads)
    torch.set_num_threads(train.threads)
    torch.manual_seed(train.seed)
    config = ModelConfig()
    tokenizer = build_tokenizer(config, train)
    model = DemoModel(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    if arguments.load:
        model.load_state_dict(torch.load(arguments.load, weights_only=True))
    stages = train.stages[arguments.first_stage :]
    seconds = [train_stage(model, tokenizer, train, s, arguments.checkpoint) for s in stages]
    export_gguf(model, tokenizer, arguments.out)
    if seconds:
        write_sidecar(arguments.out, model, train, seconds)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
