"""Lightning's loop: the module, the runner with its callbacks, and the crash-safe checkpoints."""

from senet.errors import optional

with optional("training"):
    import lightning.pytorch  # noqa: F401
    import torchmetrics  # noqa: F401
