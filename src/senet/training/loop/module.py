"""The network, its loss and its optimizer, as a Lightning module. Lightning runs the loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric

from senet.blocks.warming import compile_all_sizes
from senet.errors import ConfigError, TrainingError
from senet.insertion import convert_sync_batchnorm
from senet.insertion.facts import keep_fact
from senet.models.description import described
from senet.models.weights.preprocess import remember
from senet.models.weights.source import FORMAT
from senet.training.config import TrainConfig
from senet.training.config.train_config import MEASURES
from senet.training.data import NETWORK, ImageData, mix_seeds
from senet.training.loop.checkpoints import last_good
from senet.training.loop.counts import Counts
from senet.training.loop.losses import loss_of
from senet.training.loop.optimizer import optimizer_of
from senet.training.loop.schedule import freeze_norms, frozen_parameters, lr_factor
from senet.training.run_folder import check_data

__all__ = ["Classifier", "channels_last", "logits_of"]

# name in the history: in `Counts`
_TEST_METRICS = {
    "test_loss": "loss",
    "test_accuracy": "top1",
    "test_top5": "top5",
    "test_balanced_accuracy": "balanced_accuracy",
    "test_macro_f1": "macro_f1",
    "test_majority_share": "majority_share",
    "test_only_answer": "only_answer",
}
_AUXILIARY_WEIGHT = 0.3  # of the losses of auxiliary heads, as for the first Inception networks


def logits_of(output: Any) -> list[Tensor]:
    """Return the logits of a network's output, those of auxiliary heads behind them.

    In training torchvision's Inception networks return several; others one tensor.
    """
    if isinstance(output, Tensor):
        return [output]
    return [part for part in output if isinstance(part, Tensor)]


def channels_last(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] in the memory format in which networks are trained."""
    return images.contiguous(memory_format=torch.channels_last)


def _mixer(train: TrainConfig, classes: int) -> Any:
    """Return what mixes the images of a batch, None where nothing does."""
    from torchvision.transforms import v2

    chosen: list[Any] = []
    if train.mixup:
        chosen.append(v2.MixUp(alpha=train.mixup, num_classes=classes))
    if train.cutmix:
        chosen.append(v2.CutMix(alpha=train.cutmix, num_classes=classes))
    return v2.RandomChoice(chosen) if chosen else None


class Classifier(LightningModule):
    """Trains a network to classify images, and tests it after each epoch.

    Args:
        net: maps images [N, C, H, W] to logits [N, classes].
        data: the images.
        train: the recipe.
    """

    # a test may have fewer images than there are devices
    allow_zero_length_dataloader_with_multiple_devices = True
    first_bad_step: Tensor
    by_class: tuple[Tensor, ...] | None = None  # counts of the last test

    def __init__(self, net: nn.Module, data: ImageData, train: TrainConfig) -> None:
        super().__init__()
        # convolutions read [N, H, W, C] fastest, on CPUs and GPUs alike
        self.net = net.to(memory_format=torch.channels_last)
        self.data, self.train_config = data, train
        remember(net, data.view.preprocessing())
        keep_fact(net, "classes", list(data.classes))
        self._facts = {"format": FORMAT, **described(net), **data.fingerprint()}
        self._facts["data"] = data.config.to_dict()
        if train.warm_up:  # before the averaged copy is made
            compile_all_sizes(net)
        self.ema: AveragedModel | None = None
        if train.ema is not None:
            average = get_ema_multi_avg_fn(train.ema)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
            self.ema.requires_grad_(requires_grad=False)
        if train.compile:
            self.net.compile()  # in place: the names of the weights stay
        # A loss that is not finite shows in the mean: by default it would be left out.
        self.train_loss = MeanMetric(nan_strategy=math.nan)
        self.counts = Counts(len(data.classes))
        self.validation = Counts(len(data.classes))
        self._mix = _mixer(train, len(data.classes))
        self._loss = loss_of(train, torch.tensor(data.class_counts()))
        self._frozen: list[nn.Parameter] = []
        self._done: tuple[int, int] = (0, 0)  # epoch, and micro-batches of it that are done
        self._resumed: tuple[int, int] | None = None
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)

    @property
    def tested(self) -> nn.Module:
        """The network that is tested: the averaged one where there is one."""
        return self.net if self.ema is None else self.ema.module

    # ---- data

    def _place(self) -> dict[str, int]:
        """Return which part of each batch is this process's."""
        return {
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
            "accumulate": self.train_config.accumulate,
        }

    def train_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of the epoch that begins, or the rest of the one that goes on."""
        epoch, skip = self.current_epoch, 0
        if self._resumed is not None and self._resumed[0] == epoch:
            skip = self._resumed[1]
        return self.data.train_batches(self.train_config, epoch=epoch, skip=skip, **self._place())

    def val_dataloader(self) -> Any:
        """Return the test batches, and those of the validation images if there are some."""
        tests = self.data.test_batches(self.train_config, **self._place())
        validation = self.data.validation_batches(self.train_config, **self._place())
        return tests if validation is None else [tests, validation]

    # ---- training

    def on_fit_start(self) -> None:
        """Share batch norms between devices; DDP has wrapped the network, and would refuse on CPUs.

        Raises:
            ConfigError: a batch norm without an SE block, on CPUs.
        """
        if not self.train_config.sync_bn or self.trainer.world_size == 1:
            return
        convert_sync_batchnorm(self.net)
        plain = [
            path
            for path, module in self.net.named_modules()
            if isinstance(module, nn.SyncBatchNorm) and not hasattr(module, "se")
        ]
        if plain and self.device.type == "cpu":
            raise ConfigError(
                f"sync_bn on CPUs works for batch norms with an SE block, and {plain[0]!r} has none"
                " (torch's SyncBatchNorm needs GPUs); leave sync_bn out"
            )

    def _begin_epoch(self) -> None:
        train, epoch = self.train_config, self.current_epoch
        sometimes = train.se_only_epochs or train.freeze_bn_epochs
        if sometimes or train.trained != "all" or train.bn_statistics == "frozen":
            self.net.train()
            freeze_norms(self.net, train, epoch=epoch)
            self._frozen = frozen_parameters(self.net, train, epoch=epoch)

    def on_train_start(self) -> None:
        """Freeze what is frozen, also where the run goes on in the middle of an epoch."""
        self._begin_epoch()

    def on_train_epoch_start(self) -> None:
        """Freeze what is frozen in this epoch."""
        self._begin_epoch()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what the network itself draws (dropout) and what mixes images, by the step."""
        key = (self.train_config.seed, self.current_epoch, NETWORK, batch_idx, self.global_rank)
        torch.manual_seed(mix_seeds(*key))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        count = len(labels)
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        outputs = logits_of(self.net(channels_last(images)))
        losses = [self._loss(logits, labels) for logits in outputs]
        loss = losses[0] + _AUXILIARY_WEIGHT * sum(losses[1:])
        self.train_loss(loss.detach(), weight=count)
        first = (self.first_bad_step < 0) & ~loss.detach().isfinite()
        self.first_bad_step = torch.where(first, self.global_step, self.first_bad_step)
        self._done = (self.current_epoch, index + 1)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep frozen parameters where they are, without momentum or decay."""
        for parameter in self._frozen:
            parameter.grad = None

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step, then average the weights."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None:
            self.ema.update_parameters(self.net)

    def check_finite(self) -> None:
        """Raise `TrainingError` if the loss was not finite at some step; a call on every device."""
        step = int(self.first_bad_step)
        if not self.trainer.strategy.reduce_boolean_decision(step >= 0, all=False):
            return
        raise self._diverged(f"at step {step + 1}" if step >= 0 else "on another device")

    def check_test(self, loss: float | None) -> None:
        """Raise `TrainingError` if a test's loss is not finite: the last step broke the weights."""
        if loss is not None and not math.isfinite(loss):
            raise self._diverged(f"in the test after step {self.trainer.global_step}")

    def _diverged(self, at: str) -> TrainingError:
        return TrainingError(
            f"the loss is no longer finite {at}, in epoch {self.current_epoch + 1}; "
            f"try a smaller lr than {self.train_config.peak_lr}, a longer warm-up, or clip_norm; "
            f"{last_good(Path(self.trainer.default_root_dir))}"
        )

    # ---- test

    def validation_step(
        self, batch: tuple[Tensor, Tensor], _index: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch of the test, or of the validation, to its counts."""
        images, labels = batch
        counts = self.validation if dataloader_idx else self.counts
        counts.update(logits_of(self.tested(channels_last(images)))[0], labels)

    def epoch_metrics(self) -> dict[str, Any]:
        """Return the metrics of the epoch that ends, and begin new ones; None if it had no test."""
        metrics: dict[str, Any] = {"train_loss": float(self.train_loss.compute())}
        metrics |= dict.fromkeys(_TEST_METRICS)
        if (self.current_epoch + 1) % self.train_config.test_every == 0:
            counts = self.counts.compute()
            metrics |= {name: counts[each] for name, each in _TEST_METRICS.items()}
            self.by_class = counts["by_class"]
            if len(self.data.classes) <= 5:
                metrics["test_top5"] = None
            if (only := counts["only_answer"]) is not None:
                metrics["test_only_answer"] = self.data.classes[only]
            if self.data.validation is not None:
                chosen = self.validation.compute()
                metrics |= {
                    f"val_{name}": chosen[_TEST_METRICS[f"test_{name}"]] for name in MEASURES
                }
        self.train_loss.reset()
        self.counts.reset()
        self.validation.reset()
        return metrics

    # ---- going on

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the network is, and where the epoch stands: what is done, its loss so far."""
        checkpoint["senet"] = self._facts
        sums = torch.stack([self.train_loss.mean_value, self.train_loss.weight])
        sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        checkpoint["position"] = {
            "epoch": self._done[0],
            "parts": self._done[1],
            "loss": sums.tolist(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the epoch stood.

        Raises:
            DataError: the data have other classes, another order of them, or other images.
        """
        if "senet" in checkpoint:
            folder = Path(self.trainer.default_root_dir)
            check_data(checkpoint["senet"], self.data.fingerprint(), folder)
        position = checkpoint["position"]
        self._resumed = self._done = (position["epoch"], position["parts"])
        if self.trainer.global_rank == 0:
            loss, weight = position["loss"]
            self.train_loss.mean_value.fill_(loss)
            self.train_loss.weight.fill_(weight)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, stepped after every batch."""
        train = self.train_config
        optimizer = optimizer_of(self.net, train)
        per_epoch = self.data.steps(train)

        def factor(step: int) -> float:
            return lr_factor(train, step, per_epoch=per_epoch)

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
