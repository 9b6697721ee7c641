"""The names of PyTorch's operators, by the part they play in a network.

The names are those of the dispatcher ("aten::add_" is "add_"), where functional code, modules and
scripted code all look the same.
"""

from __future__ import annotations

__all__ = [
    "ACTIVATIONS",
    "ADDITIONS",
    "CARRIERS",
    "CONVOLUTIONS",
    "DENSE",
    "ELEMENTWISE",
    "NORMS",
    "POOLS",
    "PRODUCTS",
    "RESHAPES",
    "SHUFFLES",
    "SIGMOIDS",
    "TRANSPARENT",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _in_place_too(text: str) -> frozenset[str]:
    return _names(text) | {name + "_" for name in text.split()}


ADDITIONS = _in_place_too("add sub addcmul") | {"rsub"}
PRODUCTS = _in_place_too("mul")
NORMS = _names("""
    _batch_norm_no_update _batch_norm_with_update _native_batch_norm_legit
    _native_batch_norm_legit_no_training batch_norm cudnn_batch_norm miopen_batch_norm
    native_batch_norm
""")
# what gates end with; a hard sigmoid that is written out ends with a `clamp` or a `relu6`
SIGMOIDS = _in_place_too("clamp hardsigmoid hardtanh relu6 sigmoid") | {"_softmax", "softmax"}
ACTIVATIONS = _in_place_too("""
    _prelu_kernel celu clamp clamp_min elu gelu glu hardsigmoid hardswish hardtanh leaky_relu mish
    prelu relu relu6 rrelu selu sigmoid silu softplus tanh threshold
""")
CONVOLUTIONS = _names("_convolution convolution convolution_overrideable mkldnn_convolution")
DENSE = CONVOLUTIONS | _names("addmm baddbmm bmm linear mm")
# what does not change a map's meaning: the value before it can carry the gate as well
TRANSPARENT = PRODUCTS | _names("""
    _to_copy alias chunk clone contiguous detach div div_ dropout lift_fresh narrow native_dropout
    neg slice split split_with_sizes
""")
# each element of the output from the same element of the inputs
ELEMENTWISE = (
    ACTIVATIONS
    | ADDITIONS
    | PRODUCTS
    | _in_place_too("div erf exp log log1p neg pow reciprocal rsqrt sqrt")
    | _names("_to_copy alias clone contiguous detach")
) - {"glu", "glu_"}
# what brings a gate to the size of the map that it rescales
CARRIERS = _names("""
    _unsafe_view expand repeat reshape slice split split_with_sizes unsqueeze upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    view
""")
RESHAPES = _names("""
    _reshape_alias _unsafe_view expand flatten reshape squeeze unflatten unsqueeze view
""")
# what a channel shuffle is made of
SHUFFLES = _names("""
    _unsafe_view clone contiguous permute pixel_shuffle reshape transpose unsqueeze view
""")
POOLS = _names("""
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool2d amax avg_pool2d max max_pool2d_with_indices mean sum
""")
