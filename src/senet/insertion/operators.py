"""The names of PyTorch's operators, by the part they play in a network.

The names are those of the dispatcher ("aten::add_" is "add_"), where functional code, modules and
scripted code all look the same.
"""

from __future__ import annotations

__all__ = [
    "ACTIVATIONS",
    "ADDITIONS",
    "DENSE",
    "NORMS",
    "POOLS",
    "PRODUCTS",
    "SHUFFLES",
    "TRANSPARENT",
]

ADDITIONS = {"add", "add_"}
PRODUCTS = {"mul", "mul_"}
NORMS = {
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "batch_norm",
    "cudnn_batch_norm",
    "native_batch_norm",
}
_ACTIVATIONS = {
    "_prelu_kernel",
    "celu",
    "clamp",
    "clamp_min",
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
    "threshold",
}
ACTIVATIONS = _ACTIVATIONS | {name + "_" for name in _ACTIVATIONS}
DENSE = {
    "_convolution",
    "addmm",
    "baddbmm",
    "bmm",
    "convolution",
    "convolution_overrideable",
    "linear",
    "mkldnn_convolution",
    "mm",
}
# what does not change a map's meaning: the value before it can carry the gate as well
TRANSPARENT = PRODUCTS | {
    "_to_copy",
    "alias",
    "chunk",
    "clone",
    "contiguous",
    "detach",
    "div",
    "div_",
    "dropout",
    "lift_fresh",
    "narrow",
    "native_dropout",
    "neg",
    "slice",
    "split",
    "split_with_sizes",
}
# what a channel shuffle is made of
SHUFFLES = {
    "_unsafe_view",
    "clone",
    "contiguous",
    "permute",
    "pixel_shuffle",
    "reshape",
    "transpose",
    "unsqueeze",
    "view",
}
POOLS = {
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool2d",
    "amax",
    "avg_pool2d",
    "max",
    "max_pool2d_with_indices",
    "mean",
    "sum",
}
