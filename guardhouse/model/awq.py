"""AWQ's GEMM tensors to plain codes, zeros and scales, and back.

Knows: the order of the eight 4-bit numbers in an int32, and the formula w = (code - zero) * scale (no "+ 1").
Never knows: files, layers, backends.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import CheckpointError
from guardhouse.ops.table import DenseWeight, Float32, Int4Weight

# An int32 holds eight neighbouring output columns: column j of the eight lies in bits 4 * NIBBLE_OF_COLUMN[j] and up.
#
#   bits     31..28  27..24  23..20  19..16  15..12  11..8   7..4    3..0
#   column        7       5       3       1       6      4      2       0
NIBBLE_OF_COLUMN = (0, 4, 1, 5, 2, 6, 3, 7)
COLUMNS_PER_WORD = len(NIBBLE_OF_COLUMN)
MAX_CODE = 15


def unpack_awq(
    qweight: NDArray[np.int32],  # [in, out / 8]
    qzeros: NDArray[np.int32] | None,  # [groups, out / 8]; None: symmetric, every zero is 8
    scales: NDArray[np.floating],  # [groups, out]
    bias: NDArray[np.floating] | None = None,  # [out]
) -> Int4Weight:
    """The tensors of one quantised linear as they lie in a checkpoint -> plain numbers.

    >>> weight = unpack_awq(*pack_awq(quantize_rtn(np.ones((8, 32), np.float32), group_size=32)).values())
    >>> weight.codes.shape
    (32, 8)
    """
    _check_shapes(qweight, qzeros, scales, bias)
    return Int4Weight(
        codes=unpack_columns(qweight),
        zeros=unpack_columns(qzeros) if qzeros is not None else np.full(scales.shape, (MAX_CODE + 1) // 2, np.uint8),
        scales=np.ascontiguousarray(scales, np.float32),
        bias=np.ascontiguousarray(bias, np.float32) if bias is not None else None,
    )


def pack_awq(weight: Int4Weight) -> dict[str, NDArray[Any]]:
    """Plain numbers -> `qweight`, `qzeros`, `scales` (float16) and `bias` (float16) if there is one, in this order."""
    tensors: dict[str, NDArray[Any]] = {
        "qweight": pack_columns(weight.codes),
        "qzeros": pack_columns(weight.zeros),
        "scales": weight.scales.astype(np.float16),
    }
    if weight.bias is not None:
        tensors["bias"] = weight.bias.astype(np.float16)
    return tensors


def quantize_rtn(weight_out_in: Float32, group_size: int, shrink: Float32 | None = None) -> Int4Weight:
    """Round a dense [out, in] weight to the nearest code, one scale and zero for each `group_size` inputs of an output.

    Scales are rounded to float16 first, so that pack_awq loses nothing. Each range is widened to hold 0.0: otherwise a
    group of one sign would need a zero outside 0..15. `shrink` [out, groups] narrows the ranges to that share of
    themselves; what lies outside is clipped.
    """
    num_outputs, num_inputs = weight_out_in.shape
    if group_size < 1 or num_inputs % group_size:
        raise CheckpointError(f"{num_inputs} inputs cannot be cut into groups of {group_size}")
    codes, zeros, scales = encode_groups(weight_out_in.reshape(num_outputs, -1, group_size), shrink)
    return Int4Weight(
        codes=np.ascontiguousarray(codes.reshape(num_outputs, num_inputs).T.astype(np.uint8)),
        zeros=np.ascontiguousarray(zeros.T.astype(np.uint8)),
        scales=np.ascontiguousarray(scales.T),
    )


def encode_groups(groups: Float32, shrink: Float32 | None = None) -> tuple[Float32, Float32, Float32]:
    """[out, groups, group_size] -> codes of that shape, zeros and scales [out, groups], all float32. See quantize_rtn."""
    low = np.minimum(groups.min(axis=2), 0.0)  # [out, groups]
    high = np.maximum(groups.max(axis=2), 0.0)
    width = high - low if shrink is None else (high - low) * shrink
    scales = np.maximum(width / MAX_CODE, 1e-5).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.rint((-low if shrink is None else -low * shrink) / scales), 0, MAX_CODE)
    codes = groups / scales[:, :, None]
    np.rint(codes, out=codes)
    codes += zeros[:, :, None]
    np.clip(codes, 0, MAX_CODE, out=codes)
    return codes, zeros, scales


def dequantize(weight: Int4Weight) -> DenseWeight:
    """The same linear as dense float32 numbers, [out, in]."""
    num_inputs, num_outputs = weight.codes.shape
    grouped = weight.codes.reshape(len(weight.scales), -1, num_outputs).astype(np.float32)  # [groups, group_size, out]
    grouped -= weight.zeros[:, None]
    grouped *= weight.scales[:, None]
    return DenseWeight(np.ascontiguousarray(grouped.reshape(num_inputs, num_outputs).T), weight.bias)


def concatenate_outputs(weights: Sequence[Int4Weight]) -> Int4Weight:
    """Linears that read the same input, as one: fused qkv, fused gate and up. All have a bias, or none has."""
    return Int4Weight(
        codes=np.concatenate([weight.codes for weight in weights], axis=1),
        zeros=np.concatenate([weight.zeros for weight in weights], axis=1),
        scales=np.concatenate([weight.scales for weight in weights], axis=1),
        bias=concatenate_biases([weight.bias for weight in weights]),
    )


def concatenate_biases(biases: Sequence[Float32 | None]) -> Float32 | None:
    """Biases of fused linears end to end; None where none has one."""
    present = [bias for bias in biases if bias is not None]
    if not present:
        return None
    assert len(present) == len(biases), "fused linears must all have a bias, or none"
    return np.concatenate(present)


def unpack_columns(packed: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[rows, columns / 8] int32 -> [rows, columns] of 0..15, in natural order."""
    words = packed.view(np.uint32)  # so that a shift brings in zeros, not sign bits
    columns = np.empty((*packed.shape, COLUMNS_PER_WORD), np.uint8)
    for column, nibble in enumerate(NIBBLE_OF_COLUMN):
        columns[..., column] = (words >> np.uint32(4 * nibble)) & np.uint32(MAX_CODE)
    return columns.reshape(packed.shape[0], -1)


def pack_columns(columns: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The inverse of unpack_columns."""
    num_rows, num_columns = columns.shape
    if num_columns % COLUMNS_PER_WORD:
        raise CheckpointError(f"{num_columns} output columns are not a multiple of {COLUMNS_PER_WORD}")
    if columns.size and columns.max() > MAX_CODE:
        raise CheckpointError(f"{columns.max()} is no 4-bit code")
    grouped = columns.reshape(num_rows, -1, COLUMNS_PER_WORD).astype(np.uint32)
    words = np.zeros(grouped.shape[:2], np.uint32)
    for column, nibble in enumerate(NIBBLE_OF_COLUMN):
        words |= grouped[:, :, column] << np.uint32(4 * nibble)
    return words.view(np.int32)


def _check_shapes(
    qweight: NDArray[np.int32],
    qzeros: NDArray[np.int32] | None,
    scales: NDArray[np.floating],
    bias: NDArray[np.floating] | None,
) -> None:
    for name, tensor in (("qweight", qweight), ("qzeros", qzeros)):
        if tensor is not None and (tensor.dtype != np.int32 or tensor.ndim != 2):
            raise CheckpointError(f"{name}: expected int32 with 2 dimensions, found {tensor.dtype} {tensor.shape}")
    num_inputs, num_words = qweight.shape
    num_outputs = num_words * COLUMNS_PER_WORD
    if scales.ndim != 2 or scales.shape[1] != num_outputs:
        raise CheckpointError(f"scales: expected [groups, {num_outputs}], found {scales.shape}")
    num_groups = len(scales)
    if num_groups == 0 or num_inputs % num_groups:
        raise CheckpointError(f"scales: {num_groups} groups do not divide {num_inputs} inputs")
    if qzeros is not None and qzeros.shape != (num_groups, num_words):
        raise CheckpointError(f"qzeros: expected {(num_groups, num_words)}, found {qzeros.shape}")
    if bias is not None and bias.shape != (num_outputs,):
        raise CheckpointError(f"bias: expected {(num_outputs,)}, found {bias.shape}")
