"""libguardhouse_native.so through ctypes: finding it, its structures, its functions' signatures.

Knows: the C ABI of native/guardhouse.h, which this file repeats.
Never knows: what the operations mean.
"""

import ctypes
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

from guardhouse.errors import BackendError

KERNEL_VERSION = 3  # GH_KERNEL_VERSION of the header that the structures below were written for
OUT_OF_MEMORY = 1
INDEX_OUT_OF_RANGE = 2
ISAS = {"avx512": 4, "avxvnni": 3, "avx2": 1, "neon": 2, "portable": 0}  # enum gh_isa; the fastest first


class Int4WeightStruct(ctypes.Structure):
    """gh_int4_weight"""

    _fields_ = [
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("group_size", c_int64),
        ("panels", c_void_p),
        ("zeros", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("has_half_scales", c_int32),
    ]


class DenseWeightStruct(ctypes.Structure):
    """gh_dense_weight"""

    _fields_ = [
        ("in_features", c_int64),
        ("out_features", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("is_half", c_int32),
    ]


class HeadsStruct(ctypes.Structure):
    """gh_heads"""

    _fields_ = [("num_heads", c_int64), ("num_kv_heads", c_int64), ("head_dim", c_int64)]


class CacheStruct(ctypes.Structure):
    """gh_cache: one layer"""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("num_blocks", c_int64), ("block_size", c_int64)]


class BatchStruct(ctypes.Structure):
    """gh_batch"""

    _fields_ = [
        ("positions", c_void_p),
        ("slot_mapping", c_void_p),
        ("query_starts", c_void_p),
        ("context_lens", c_void_p),
        ("block_tables", c_void_p),
        ("num_tokens", c_int64),
        ("num_seqs", c_int64),
        ("max_blocks", c_int64),
    ]


class RopeStruct(ctypes.Structure):
    """gh_rope"""

    _fields_ = [("cosines", c_void_p), ("sines", c_void_p), ("max_positions", c_int64)]


_HEADS, _CACHE, _BATCH, _ROPE = POINTER(HeadsStruct), POINTER(CacheStruct), POINTER(BatchStruct), POINTER(RopeStruct)
_INT4, _DENSE = POINTER(Int4WeightStruct), POINTER(DenseWeightStruct)

# Arguments of every function that takes a runtime first and returns a status.
SIGNATURES = {
    "gh_pack_int4": (c_void_p, _INT4, c_void_p),
    "gh_linear_int4": (c_void_p, c_int64, _INT4, c_void_p),
    "gh_norm_linear_int4": (c_void_p, c_void_p, c_float, c_int64, _INT4, c_void_p),
    "gh_add_linear_int4": (c_void_p, c_int64, _INT4, c_void_p),
    "gh_add_gated_linear_int4": (c_void_p, c_int64, _INT4, c_void_p),
    "gh_linear_dense": (c_void_p, c_int64, _DENSE, c_void_p),
    "gh_embed": (_DENSE, c_void_p, c_int64, c_void_p),
    "gh_rms_norm": (c_void_p, c_void_p, c_float, c_int64, c_int64, c_void_p),
    "gh_silu_mul": (c_void_p, c_int64, c_int64, c_void_p),
    "gh_add": (c_void_p, c_void_p, c_int64),
    "gh_rope_and_store": (c_void_p, _HEADS, _ROPE, _CACHE, _BATCH),
    "gh_attention": (c_void_p, _HEADS, _CACHE, _BATCH, c_void_p),
}


def native_library_path() -> Path | None:
    """Where the compiled kernels are, or None where the installation found no C compiler."""
    path = Path(__file__).with_name("libguardhouse_native.so")
    return path if path.is_file() else None


def load_library() -> ctypes.CDLL:
    """The library with its signatures declared. Its calls release the GIL."""
    path = native_library_path()
    if path is None:
        raise BackendError("the native kernels were not compiled on this machine; install again with a C compiler")
    try:
        library = ctypes.CDLL(str(path))
        library.gh_kernel_version.argtypes = ()
        version = library.gh_kernel_version()
    except (OSError, AttributeError) as error:
        raise BackendError(f"{path.name} cannot be loaded: {error}") from error
    if version != KERNEL_VERSION:
        raise BackendError(f"{path.name} is version {version}, not {KERNEL_VERSION}; install guardhouse again")
    library.gh_supports_isa.argtypes = (c_int,)
    library.gh_runtime_create.argtypes = (c_int, c_int)
    library.gh_runtime_create.restype = c_void_p
    library.gh_runtime_destroy.argtypes = (c_void_p,)
    library.gh_runtime_destroy.restype = None
    for name, arguments in SIGNATURES.items():
        getattr(library, name).argtypes = (c_void_p, *arguments)
    return library
