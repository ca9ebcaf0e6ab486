"""Write a checkpoint with random weights in the format of TheBloke/LlamaGuard-7B-AWQ, to measure with.

    python benchmarks/make_checkpoint.py /tmp/7b --from ../shared/data/llamaguard-7b
    python benchmarks/make_checkpoint.py /tmp/two-layers --from ../shared/data/llamaguard-7b --layers 2

Configuration, tokenizer and template are those of the folder `--from`; sizes may be changed. Its speed, memory and file
sizes are those of a true checkpoint of that shape. Its verdicts mean nothing. Nothing larger than one piece of a tensor
is ever held in memory.

Knows: the safetensors format, which tensors a Llama needs, which random numbers keep activations near 1.
Never knows: how the checkpoint is used.
"""

import json
import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from guardhouse.model.layout import TensorSpec, expected_tensors
from guardhouse.model.llama_config import read_config

PIECE_NUMBERS = 2**22  # numbers made and written at a time
ITEM_BYTES = {"I32": 4, "F16": 2}
SEVEN_PER_CODE = np.uint32(0x77777777)  # eight 4-bit sevens
ONE_PER_CODE = np.uint32(0x11111111)
WEIGHT_SUFFIXES = (".safetensors", ".index.json", ".bin", ".pt", ".pth")
SHAPES: dict[str, dict[str, int]] = {
    "same": {},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 8},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    | {"num_attention_heads": 32, "num_key_value_heads": 8},
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
    | {"num_attention_heads": 4, "num_key_value_heads": 4},
}


def write_checkpoint(target: Path, source: Path, sizes: dict[str, int], seed: int) -> int:
    """Copy all but weights from `source`, apply `sizes` to config.json, write weights. Returns the tensors' bytes."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(path, target / path.name)
    if sizes:
        config = json.loads((source / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | sizes, indent=2))
    specs = list(expected_tensors(read_config(target)))
    return write_safetensors(target / "model.safetensors", specs, np.random.default_rng(seed))


def write_safetensors(path: Path, specs: list[TensorSpec], generator: np.random.Generator) -> int:
    """Header length (8 bytes), header (JSON), then the tensors end to end. Returns the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for spec in specs:
        end = total + math.prod(spec.shape) * ITEM_BYTES[stored_dtype(spec)]
        header[spec.name] = {"dtype": stored_dtype(spec), "shape": spec.shape, "data_offsets": [total, end]}
        total = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that data begins at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        write_tensors(file, specs, total, generator)
    return total


def write_tensors(file: BinaryIO, specs: list[TensorSpec], total: int, generator: np.random.Generator) -> None:
    hidden_size = specs[0].shape[1]  # the embedding table comes first
    columns = ("[progress.percentage]{task.percentage:>3.0f} %", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("weights", total=total)
        for spec in specs:
            for piece in random_pieces(spec, hidden_size, generator):
                file.write(piece)
                progress.advance(task, len(piece))


def stored_dtype(spec: TensorSpec) -> str:
    return "I32" if "I32" in spec.dtypes else "F16"


def random_pieces(spec: TensorSpec, hidden_size: int, generator: np.random.Generator) -> Iterator[bytes]:
    """The tensor's bytes.

    Codes are uniform, with a standard deviation of 4.6; zeros are 7 or 8, so that weights average 0. (With 8 alone they do
    not, and after a few layers all activations of a row are the same number, as no real model's are.) A scale of
    0.25 * in ** -0.5 keeps what goes through a linear near its size: nothing overflows, nothing vanishes.
    """
    count = math.prod(spec.shape)
    for start in range(0, count, PIECE_NUMBERS):
        size = min(PIECE_NUMBERS, count - start)
        if spec.name.endswith(".qweight"):
            yield generator.bytes(4 * size)
        elif spec.name.endswith(".qzeros"):
            halves = generator.integers(0, 1 << 32, size, np.uint32) & ONE_PER_CODE
            yield (halves + SEVEN_PER_CODE).astype("<u4").tobytes()
        elif spec.name.endswith(".scales"):
            yield (generator.uniform(0.75, 1.25, size) * 0.25 * hidden_size**-0.5).astype("<f2").tobytes()
        elif spec.name.endswith("norm.weight"):
            yield np.ones(size, "<f2").tobytes()
        else:
            deviation = spec.shape[-1] ** -0.5
            yield (generator.standard_normal(size, np.float32) * np.float32(deviation)).astype("<f2").tobytes()


@click.command(help=__doc__)
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--from", "source", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--shape", type=click.Choice(list(SHAPES)), default="same", show_default=True, help="a model's sizes")
@click.option("--layers", "num_hidden_layers", type=click.IntRange(min=1), help="then, decoder layers")
@click.option("--hidden", "hidden_size", type=click.IntRange(min=1))
@click.option("--intermediate", "intermediate_size", type=click.IntRange(min=1))
@click.option("--heads", "num_attention_heads", type=click.IntRange(min=1))
@click.option("--kv-heads", "num_key_value_heads", type=click.IntRange(min=1))
@click.option("--vocab", "vocab_size", type=click.IntRange(min=1))
@click.option("--seed", type=int, default=0, show_default=True)
def main(target: Path, source: Path, shape: str, seed: int, **sizes: int | None) -> None:
    chosen = SHAPES[shape] | {name: value for name, value in sizes.items() if value is not None}
    total = write_checkpoint(target, source, chosen, seed)
    click.echo(f"{target}: {total:,} bytes of tensors")


if __name__ == "__main__":
    main()
