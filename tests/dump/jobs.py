"""Little dumps of a tiny model, and what they must be equal to."""

import hashlib
from pathlib import Path

import numpy as np

NEURONS = "layers.*.mlp.hook_post"


class Numbers:
    """A tokenizer of words that are numbers from 3 on; BOS is 1, padding 0."""

    bos_token_id, pad_token_id = 1, 0
    name_or_path = "numbers"
    special_tokens_map = {"bos_token": "1"}  # noqa: RUF012
    init_kwargs = {}  # noqa: RUF012

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[1, *map(int, text.split())] for text in texts]}

    def get_vocab(self):
        return {str(number): number for number in range(50)}

    def decode(self, ids):
        return " ".join(map(str, ids))


def numbers(n, *, seed=0, longest=40):
    """Documents of 1 to `longest` words."""
    random = np.random.default_rng(seed)
    return [
        " ".join(map(str, random.integers(3, 50, size=random.integers(1, longest + 1))))
        for _ in range(n)
    ]


def digest(folder):
    """Path -> checksum of every file of a folder."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
