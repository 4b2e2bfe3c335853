"""Training data: scenes drawn and put into words by all cores while training runs."""

import itertools
import math
import mmap
import multiprocessing
import os
import random
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTokenizer

from .architecture import END, SIZE, START, TOKENS
from .captions import describe
from .painter import render
from .scenes import stream

SHARD = 2048  # scenes
CAPTIONS = 6  # per scene
_worker: tuple[CLIPTokenizer, np.ndarray, np.ndarray]


def _shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array in memory that forked workers write to and this process reads."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


def _start_worker(tokenizer: Path, pictures: np.ndarray, tokens: np.ndarray) -> None:
    global _worker  # a pool hands its workers state in no other way
    os.nice(10)  # training's own thread goes first
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = (CLIPTokenizer.from_pretrained(tokenizer), pictures, tokens)


def _draw_shard(shard: int, seed: int) -> None:
    """Fill one shard of the shared arrays."""
    tokenizer, all_pictures, all_tokens = _worker
    at = slice(shard * SHARD, (shard + 1) * SHARD)
    pictures, tokens = all_pictures[at], all_tokens[at]
    texts: list[str] = []
    for i, (scene, rng) in enumerate(itertools.islice(stream(seed, held=False), SHARD)):
        pictures[i] = render(scene, SIZE)
        texts += [describe(scene, rng).text for _ in range(CAPTIONS)]
    rng = random.Random(seed)
    for i, ids in enumerate(tokenizer(texts)["input_ids"]):
        tokens[i // CAPTIONS, i % CAPTIONS] = _padded(_with_noise(ids[1:-1], rng))


def _with_noise(ids: list[int], rng: random.Random) -> list[int]:
    """Now and then, words that mean nothing: prompts will hold words unknown here."""
    draw = rng.random()
    if draw < 0.08:
        at = rng.randint(0, len(ids))
        return (
            ids[:at]
            + [rng.randrange(START) for _ in range(rng.randint(1, 4))]
            + ids[at:]
        )
    if draw < 0.10:
        return ids + [rng.randrange(START) for _ in range(rng.randint(8, 40))]
    return ids


def _padded(ids: list[int]) -> np.ndarray:
    ids = ids[: TOKENS - 2]
    return np.array([START, *ids] + [END] * (TOKENS - 1 - len(ids)), np.int16)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(len(texts), 77) token numbers, as the model sees them."""
    rows = [_padded(ids[1:-1]) for ids in tokenizer(texts)["input_ids"]]
    return torch.from_numpy(np.stack(rows)).long()


class Corpus:
    """Pictures and tokens on one device, growing until all shards are drawn.

    Make it before anything touches the GPU: its workers are forked.
    """

    def __init__(self, count: int, tokenizer: Path, workers: int, seed: int):
        shards = count // SHARD
        self.total, self.ready = shards * SHARD, 0
        self._drawn = (
            _shared((self.total, SIZE, SIZE, 3), np.uint8),
            _shared((self.total, CAPTIONS, TOKENS), np.int16),
        )
        self.pool = multiprocessing.get_context("fork").Pool(
            workers, _start_worker, (tokenizer, *self._drawn)
        )
        jobs = [(i, seed + 1 + i) for i in range(shards)]
        self._pending = [self.pool.apply_async(_draw_shard, job) for job in jobs]

    def start(self, device: str) -> None:
        """Reserve the device's memory."""
        pictures, tokens = (torch.from_numpy(drawn) for drawn in self._drawn)
        self.pictures = torch.empty_like(pictures, device=device)
        self.tokens = torch.empty_like(tokens, device=device)

    def refresh(self) -> None:
        """Copy what has been drawn since the last time, in order."""
        while self._pending and self._pending[0].ready():
            self._pending.pop(0).get()
            at = slice(self.ready, self.ready + SHARD)
            self.pictures[at] = torch.from_numpy(self._drawn[0][at])
            self.tokens[at] = torch.from_numpy(self._drawn[1][at])
            self.ready += SHARD

    def wait(self, count: int) -> None:
        """Until `count` scenes, or all of them, are there."""
        while self.ready < min(count, self.total):
            self._pending[0].wait()
            self.refresh()

    def batch(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """(size, 3, 128, 128) float32 in -1..1."""
        device = self.pictures.device
        index = torch.randint(self.ready, (size,), generator=generator, device=device)
        return as_input(self.pictures[index])


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in -1..1"""
    scaled = pictures.float() / 127.5 - 1
    return scaled.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
