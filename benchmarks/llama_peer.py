"""llama.cpp at the guard's work, in a process of its own: the peer that versus.py measures against.

    python benchmarks/llama_peer.py make /tmp/7b-q4_0.gguf          random weights of Llama 7B's shape, 4 bit
    python benchmarks/llama_peer.py serve /tmp/7b-q4_0.gguf --threads 2     orders on stdin, seconds on stdout

It runs in any environment that has `llama-cpp-python` (built from source, so that it is compiled for this machine) and
`gguf`; nothing of guardhouse is imported. An order is one line of JSON:

    {"do": "prefix", "tokens": 830, "file": "/tmp/prefix.bin"}    the shared head: computed, or read from the file
    {"do": "prefill", "tokens": 512}                              one prompt, the last row's logits
    {"do": "classify", "tokens": 124, "requests": 8}              as many prompts behind the shared head, in one batch

The library is called directly, without HTTP, and prompts that wait together are decoded together: no server built on it
could be faster.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCABULARY = 4096, 11008, 32, 32, 32000
Q4_0_BLOCK, Q4_0_BYTES = 32, 18  # weights that share a scale; a float16 scale and 32 codes
SHARED, FIRST_FREE = 0, 1  # sequence of the head; sequences of requests
CONTEXT = 4096


def tensors() -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Name, shape [out, in], and whether it is 4 bit."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN), False
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", (HIDDEN, HIDDEN), True
        for name in ("ffn_gate", "ffn_up"):
            yield f"blk.{layer}.{name}.weight", (INTERMEDIATE, HIDDEN), True
        yield f"blk.{layer}.ffn_down.weight", (HIDDEN, INTERMEDIATE), True
    yield "output.weight", (VOCABULARY, HIDDEN), False


def norms() -> Iterator[str]:
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"
    yield "output_norm.weight"


def random_weight(generator: np.random.Generator, shape: tuple[int, int], is_4_bit: bool) -> np.ndarray[Any, Any]:
    """Of variance 1 / in, so that activations stay near 1."""
    rows, columns = shape
    if not is_4_bit:
        return (generator.standard_normal(shape, dtype=np.float32) / columns**0.5).astype(np.float16)
    blocks = generator.integers(0, 256, (rows, columns // Q4_0_BLOCK, Q4_0_BYTES), dtype=np.uint8)
    scale = np.array([1 / (4.6 * columns**0.5)], np.float16)  # codes 0..15 minus 8 deviate by 4.6
    blocks[:, :, :2] = scale.view(np.uint8)
    return blocks.reshape(rows, -1)


def make(path: Path) -> None:
    """Write the model, one tensor in memory at a time."""
    import gguf  # noqa: PLC0415 - only this command needs it

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("none")
    for name, (rows, columns), is_4_bit in tensors():
        kind = gguf.GGMLQuantizationType.Q4_0 if is_4_bit else gguf.GGMLQuantizationType.F16
        shape = (rows, columns // Q4_0_BLOCK * Q4_0_BYTES) if is_4_bit else (rows, columns)
        dtype = np.dtype(np.uint8 if is_4_bit else np.float16)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, raw_dtype=kind)
    for name in norms():
        writer.add_tensor_info(name, (HIDDEN,), np.dtype(np.float32), 4 * HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(0)
    for _, shape, is_4_bit in tensors():
        writer.write_tensor_data(random_weight(generator, shape, is_4_bit))
    for _ in norms():
        writer.write_tensor_data(np.ones(HIDDEN, np.float32))
    writer.close()


class Peer:
    """One loaded model and its context."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp  # noqa: PLC0415 - `make` does without it

        self.api = llama_cpp
        llama_cpp.llama_backend_init()
        loading = llama_cpp.llama_model_default_params()
        loading.use_mmap = False  # what it does not repack would lie in a file's pages, which the system drops at will
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), loading)
        assert model, f"{path} cannot be loaded"
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = CONTEXT, 2048, 512
        parameters.n_seq_max, parameters.kv_unified = 16, True
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, parameters)
        assert self.context, "no context"
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.generator = np.random.default_rng(1)
        self.num_shared = 0

    def decode(self, starts: list[tuple[int, int]], num_tokens: int) -> None:
        """Random tokens for each (sequence, first position), in one batch; logits after the last of each."""
        batch = self.api.llama_batch_init(len(starts) * num_tokens, 0, 1)
        batch.n_tokens = len(starts) * num_tokens
        ids = self.generator.integers(1, VOCABULARY, batch.n_tokens)
        for index in range(batch.n_tokens):
            sequence, first = starts[index // num_tokens]
            batch.token[index], batch.pos[index] = int(ids[index]), first + index % num_tokens
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = index % num_tokens == num_tokens - 1
        status = self.api.llama_decode(self.context, batch)
        assert status == 0, f"llama_decode: {status}"
        assert np.isfinite(self.api.llama_get_logits_ith(self.context, num_tokens - 1)[0])
        self.api.llama_batch_free(batch)

    def forget(self, sequence: int) -> None:
        self.api.llama_memory_seq_rm(self.memory, sequence, -1, -1)

    def prefix(self, tokens: int, file: str) -> None:
        name, count = file.encode(), ctypes.c_size_t()
        ids = (ctypes.c_int32 * tokens)()
        self.forget(SHARED)
        if Path(file).exists():
            assert self.api.llama_state_seq_load_file(self.context, name, SHARED, ids, tokens, ctypes.byref(count))
        else:
            self.decode([(SHARED, 0)], tokens)
            self.api.llama_state_seq_save_file(self.context, name, SHARED, ids, tokens)
        self.num_shared = tokens

    def prefill(self, tokens: int) -> None:
        self.forget(FIRST_FREE)
        self.decode([(FIRST_FREE, 0)], tokens)

    def classify(self, tokens: int, requests: int) -> None:
        sequences = range(FIRST_FREE, FIRST_FREE + requests)
        for sequence in sequences:
            self.forget(sequence)
            self.api.llama_memory_seq_cp(self.memory, SHARED, sequence, -1, -1)
        self.decode([(sequence, self.num_shared) for sequence in sequences], tokens)
        for sequence in sequences:
            self.forget(sequence)


def serve(path: Path, threads: int) -> None:
    """Orders on stdin until it ends; {"seconds": ..} for each."""
    peer = Peer(path, threads)
    print(json.dumps({"system": peer.api.llama_print_system_info().decode()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        work = getattr(peer, order.pop("do"))
        start = time.perf_counter()
        work(**order)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def main() -> None:
    """Parse, then make or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "serve"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.path)
    else:
        serve(arguments.path, arguments.threads)


if __name__ == "__main__":
    main()
