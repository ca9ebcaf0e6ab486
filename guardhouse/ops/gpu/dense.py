"""Dense float16 weights: tensor-core products with float32 sums, one tile shape for every number of tokens.

    result[t, o] = sum over in, 64 at a time and in order, of half(x) * weight[o, in]; then bias

A library's product may pick another order of summation for another number of tokens; the LM head's rows decide verdicts,
so here the order is fixed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_TOKENS, BLOCK_OUT, DEPTH = 64, 64, 64


@triton.jit(do_not_specialize=["num_tokens"])
def _multiply(
    x, weight, bias, y, num_tokens, num_outputs, num_inputs, has_bias: tl.constexpr,
    block_tokens: tl.constexpr, block_out: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    outputs = tl.program_id(0) * block_out + tl.arange(0, block_out)
    tokens = tl.program_id(1) * block_tokens + tl.arange(0, block_tokens)
    is_token, is_output = tokens < num_tokens, outputs < num_outputs
    inputs = tl.arange(0, depth)
    total = tl.zeros((block_tokens, block_out), dtype=tl.float32)
    for first in range(0, num_inputs, depth):
        is_input = first + inputs < num_inputs
        x_place = tokens[:, None].to(tl.int64) * num_inputs + first + inputs[None, :]
        values = tl.load(x + x_place, mask=is_token[:, None] & is_input[None, :], other=0)
        w_place = outputs[:, None].to(tl.int64) * num_inputs + first + inputs[None, :]
        weights = tl.load(weight + w_place, mask=is_output[:, None] & is_input[None, :], other=0)
        total = tl.dot(values, tl.trans(weights), acc=total)
    if has_bias:
        total += tl.load(bias + outputs, mask=is_output, other=0)[None, :]
    place = tokens[:, None].to(tl.int64) * num_outputs + outputs[None, :]
    tl.store(y + place, total, mask=is_token[:, None] & is_output[None, :])


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """float32 [tokens, in], float16 [out, in] -> float32 [tokens, out]."""
    (num_tokens, num_inputs), num_outputs = x.shape, len(weight)
    y = torch.empty((num_tokens, num_outputs), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(num_outputs, BLOCK_OUT), triton.cdiv(num_tokens, BLOCK_TOKENS))
    halves = x.to(torch.float16)  # once, not by every program
    _multiply[grid](
        halves, weight, y if bias is None else bias, y, num_tokens, num_outputs, num_inputs, has_bias=bias is not None,
        block_tokens=BLOCK_TOKENS, block_out=BLOCK_OUT, depth=DEPTH, num_warps=4, num_stages=3, enable_fp_fusion=False,
    )  # fmt: skip
    return y
