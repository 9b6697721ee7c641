"""Lightning's loop: the module, the runner with its callbacks, and the crash-safe checkpoints."""
