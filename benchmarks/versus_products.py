"""The peers of versus.py that live in this process: torch's and onnxruntime's 4-bit products, transformers' Llama.

Each is built from the same numbers as ours and returns what it computes, so that a wrong peer would be seen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guardhouse.ops.table import Float32, Int4Weight

Product = tuple[str, Callable[[], None], Float32]  # name, the call that is timed, its result


def torch_product(weight: Int4Weight, x: Float32, threads: int) -> Product:
    """torch's CPU int4 product, bfloat16 activations; it takes (code - 8) * scale + zero, and zeros are 0 here."""
    torch.set_num_threads(threads)
    codes = torch.from_numpy(np.ascontiguousarray(weight.codes.T)).int()  # [out, in]
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scales = torch.from_numpy(weight.scales)
    scales_and_zeros = torch.stack([scales, torch.zeros_like(scales)], dim=-1).bfloat16().contiguous()
    group_size = len(weight.codes) // len(weight.scales)
    activations = torch.from_numpy(x).bfloat16()

    def multiply() -> torch.Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(activations, packed, group_size, scales_and_zeros)

    return "torch int4, bf16", lambda: (multiply(), None)[1], multiply().float().numpy()


def onnxruntime_product(weight: Int4Weight, x: Float32, threads: int) -> Product:
    """MatMulNBits at accuracy level 4: int8 activations, as ours; a missing zero point means 8."""
    import onnx  # noqa: PLC0415 - no dependency of this project: measured where it is installed
    import onnxruntime  # noqa: PLC0415

    num_inputs, num_outputs = weight.codes.shape
    num_groups = len(weight.scales)
    codes = np.ascontiguousarray(weight.codes.T).reshape(num_outputs, num_groups, -1)
    packed = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
    tensor = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scales"],
        ["y"],
        domain="com.microsoft",
        K=num_inputs,
        N=num_outputs,
        bits=4,
        block_size=num_inputs // num_groups,
        accuracy_level=4,
    )
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [tensor("x", onnx.TensorProto.FLOAT, ["tokens", num_inputs])],
        [tensor("y", onnx.TensorProto.FLOAT, ["tokens", num_outputs])],
        [
            onnx.numpy_helper.from_array(packed, "codes"),
            onnx.numpy_helper.from_array(np.ascontiguousarray(weight.scales.T).reshape(-1), "scales"),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def multiply() -> Any:
        return session.run(None, {"x": x})[0]

    return "onnxruntime, int8", lambda: (multiply(), None)[1], multiply()


def transformers_verdict(folder: Path, head: NDArray[np.int32], num_new: int, threads: int) -> Callable[[int], None]:
    """`count` verdicts behind the cached head, one after the other: float32, random weights of the folder's shape."""
    from transformers import AutoConfig, DynamicCache, LlamaForCausalLM  # noqa: PLC0415 - slow to import

    torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = LlamaForCausalLM(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        model(torch.from_numpy(head).long()[None], past_key_values=cache)

    def judge(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                ids = torch.randint(1, config.vocab_size, (1, num_new), generator=generator)
                logits = model(ids, past_key_values=cache, logits_to_keep=4).logits
                assert logits.isfinite().all()
                cache.crop(-num_new)

    return judge
