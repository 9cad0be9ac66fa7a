"""What all adversarial tasks share: two optimisers, named terms, schedules, and state that resumes exactly.

A task implements `discriminator_terms` and `generator_terms`, dictionaries of named, unweighted scalars. The
base weighs, sums, steps (discriminator first), logs, and stops with a message when a sum is not finite.

`global_step` counts optimiser steps, two a batch; `batches_seen` counts batches.
"""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchgeo.tasks import BaseTask

from rsgeo_gan import __version__
from rsgeo_gan.errors import CheckpointError, TrainingError
from rsgeo_gan.tasks import randomness
from rsgeo_gan.tasks.alarms import Alarms

__all__ = ["AdversarialTask"]

log = logging.getLogger(__name__)

Batch = dict[str, Any]
Terms = dict[str, Tensor]

FORMAT = 1
_OBSERVE_EVERY = 10


class AdversarialTask(BaseTask):
    """Base of all tasks with a generator and a discriminator.

    A subclass keeps its networks in `self.parts` before it calls this constructor; they become modules of the same
    names. (Modules cannot be assigned before `Module.__init__`, and torchgeo's constructor calls the hooks.)

    Args:
        weights: Weight by term, replacing defaults of the task (`default_weights`).
        lr: Learning rate of the generators.
        lr_discriminator: Learning rate of the discriminators; that of the generators when None.
        betas: Adam's two decay rates.
        warmup_epochs: Epochs over which the learning rates rise linearly.
        decay_share: Share of the epochs, at the end, over which they fall linearly towards zero.
        fused: Adam in one kernel, where the device has it.

    Raises:
        ValueError: If a weight names no term of the task, or a share is not one.
    """

    #: Everything is kept with the weights, also the weights of the terms.
    ignore = None
    #: Terms of the task and their weights.
    default_weights: ClassVar[dict[str, float]] = {}
    #: Attributes whose parameters the first, the discriminators' optimiser has.
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator",)
    #: Attributes whose parameters the second, the generators' optimiser has.
    generators: ClassVar[tuple[str, ...]] = ("generator",)

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        lr: float = 2e-4,
        lr_discriminator: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        warmup_epochs: int = 0,
        decay_share: float = 0.5,
        fused: bool = True,
    ) -> None:
        unknown = set(weights or ()) - set(self.default_weights)
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: weights for unknown terms {sorted(unknown)}; expected some of "
                f"{sorted(self.default_weights)}"
            )
        if not 0 <= decay_share <= 1 or warmup_epochs < 0:
            raise ValueError(
                f"{type(self).__name__}: expected 0 <= decay_share <= 1 and warmup_epochs >= 0, got {decay_share} "
                f"and {warmup_epochs}"
            )
        self.weights = {**self.default_weights, **(weights or {})}
        self.lr = lr
        self.lr_discriminator = lr if lr_discriminator is None else lr_discriminator
        self.betas = betas
        self.warmup_epochs = warmup_epochs
        self.decay_share = decay_share
        self.fused = fused
        with warnings.catch_warnings():
            # Lightning advises to leave modules out of the hyper-parameters. From a recipe they are stored as class
            # paths, which is what rebuilds a checkpoint; left out, it could not be loaded.
            warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
            super().__init__()
        self.automatic_optimization = False
        self.facts: dict[str, Any] = {}
        self.batches_seen = 0
        self.alarms = Alarms()
        self._random_state: dict[str, Any] | None = None

    parts: Mapping[str, nn.Module | None]

    @abstractmethod
    def discriminator_terms(self, batch: Batch) -> Terms:
        """Return the discriminators' named, unweighted scalars."""

    @abstractmethod
    def generator_terms(self, batch: Batch) -> Terms:
        """Return the generators' named, unweighted scalars."""

    def prepare(self, batch: Batch) -> Batch:
        """Compute what both steps use, such as fakes with their graph; returns the batch with additions."""
        return batch

    def after_step(self) -> None:
        """Follow the networks after a batch, such as a moving average does."""

    def weight_of(self, term: str) -> float:
        """Return the weight of a term at this moment."""
        return self.weights[term]

    def contrast(self, batch: Batch) -> float:
        """Return the standard deviation of fakes over that of reals; NaN when the task has no such notion."""
        return float("nan")

    def extra_state(self) -> dict[str, Any]:
        """Return further state that a resumed run needs, plain types and tensors."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `extra_state` returned."""

    def configure_models(self) -> None:
        """Make modules of the networks that the constructor was given."""
        parts = self.__dict__.pop("parts")
        for name, part in parts.items():
            setattr(self, name, part)

    def configure_optimizers(self) -> Any:
        """Return Adam for the discriminators, then Adam for the generators, and their schedules."""
        optimizers = [
            Adam(self._parameters_of(names), lr=lr, betas=self.betas, fused=self.fused)
            for names, lr in ((self.discriminators, self.lr_discriminator), (self.generators, self.lr))
        ]
        return optimizers, [
            {"scheduler": LambdaLR(optimizer, self.schedule), "interval": "epoch"} for optimizer in optimizers
        ]

    def _parameters_of(self, names: tuple[str, ...]) -> list[nn.Parameter]:
        modules = [getattr(self, name) for name in names]
        return [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]

    def schedule(self, epoch: int) -> float:
        """Return the factor of the learning rates in an epoch: rise, plateau, fall."""
        rise = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        total = self.trainer.max_epochs or 0
        if total <= 0:
            return rise
        fall = round(total * self.decay_share)
        return rise * min(1.0, max(0.0, (total - epoch) / (fall + 1)))

    def setup(self, stage: str) -> None:
        """Take the facts of the data into the task, so that they are stored with the weights."""
        found = getattr(getattr(self.trainer, "datamodule", None), "facts", None)
        if found:
            self.facts = dict(found)

    def on_train_start(self) -> None:
        """Bring schedules and random generators to where the checkpoint left them."""
        self._set_learning_rates(self._epochs_done())
        if self._random_state is not None:
            randomness.restore(self._random_state)
            self._random_state = None

    def on_train_epoch_end(self) -> None:
        """Step the schedules."""
        self._set_learning_rates(self._epochs_done())

    def _epochs_done(self) -> int:
        progress: Any = self.trainer.fit_loop.epoch_progress
        return int(progress.current.processed)

    def _set_learning_rates(self, epoch: int) -> None:
        """Set, rather than step, so that stopping between an epoch's last batch and its end changes nothing."""
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if not isinstance(scheduler, LambdaLR):
                continue
            scheduler.last_epoch = epoch
            rates = [base * self.schedule(epoch) for base in scheduler.base_lrs]
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Step the discriminators, then the generators."""
        optimizer_d, optimizer_g = cast(list[LightningOptimizer], self.optimizers())
        batch = self.prepare(dict(batch))
        size = len(next(value for value in batch.values() if isinstance(value, Tensor) and value.ndim > 1))
        sums = {}
        for prefix, optimizer, terms_of in (
            ("train_d", optimizer_d, self.discriminator_terms),
            ("train_g", optimizer_g, self.generator_terms),
        ):
            raw = cast(Optimizer, optimizer)
            self.toggle_optimizer(raw)
            terms = terms_of(batch)
            total = self._weighted(prefix, terms)
            optimizer.zero_grad(set_to_none=True)
            self.manual_backward(total)
            optimizer.step()
            self.untoggle_optimizer(raw)
            sums[prefix] = total.detach()
            self.log_dict({f"{prefix}/{name}": term.detach() for name, term in terms.items()}, batch_size=size)
            self.log(f"{prefix}/total", total.detach(), prog_bar=True, batch_size=size)
        self.after_step()
        self.batches_seen += 1
        if self.batches_seen % _OBSERVE_EVERY == 0:
            state = self.alarms.observe(
                self.batches_seen, self.contrast(batch), float(sums["train_d"]), float(sums["train_g"])
            )
            self.log_dict({f"alarm/{name}": value for name, value in state.items()}, batch_size=size)

    def _weighted(self, prefix: str, terms: Terms) -> Tensor:
        if not terms:
            raise ValueError(f"{type(self).__name__}: no terms for {prefix}; a step needs one at least")
        total = torch.stack([self.weight_of(name) * term.float() for name, term in terms.items()]).sum()
        if not torch.isfinite(total):
            values = {name: float(term.detach()) for name, term in terms.items()}
            broken = [name for name, term in terms.items() if not torch.isfinite(term)] or list(values)
            raise TrainingError(
                f"Training stopped at batch {self.batches_seen} of epoch {self.current_epoch}: the {prefix} term "
                f"{', '.join(broken)} is not finite (terms {values}); the weights are damaged from here on. "
                f"{self._last_checkpoint()} Lower the learning rates or train in float32."
            )
        return total

    def _last_checkpoint(self) -> str:
        paths = [
            str(getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "") or "")
            for callback in getattr(self.trainer, "checkpoint_callbacks", [])
        ]
        found = next((path for path in paths if path), "")
        return f"The last good checkpoint is {found}." if found else "No checkpoint was written before."

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add facts about data and code, and what an exact resume needs, as plain types."""
        kind = type(self)
        checkpoint["rsgeo_gan"] = {
            "format": FORMAT,
            "task": f"{kind.__module__}.{kind.__qualname__}",
            "version": __version__,
            "facts": self.facts,
        }
        checkpoint["rsgeo_gan_state"] = {
            "batches_seen": self.batches_seen,
            "random": randomness.capture(),
            "alarms": self.alarms.state(),
            "extra": self.extra_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take facts and state over.

        Raises:
            CheckpointError: If the checkpoint is not one of ours, or belongs to data normalised differently.
        """
        stored = checkpoint.get("rsgeo_gan")
        if not isinstance(stored, Mapping) or stored.get("format") != FORMAT:
            raise CheckpointError(
                f"The checkpoint was not written by this package (no 'rsgeo_gan' entry of format {FORMAT}, got "
                f"{sorted(checkpoint)[:8]}); give one that `rsgeo-gan fit` wrote."
            )
        facts = dict(stored.get("facts") or {})
        for side in ("source", "target"):
            if self.facts.get(side) and facts.get(side) and not _same_range(self.facts[side], facts[side]):
                raise CheckpointError(
                    f"The checkpoint was trained with another normalisation of the {side} side: expected "
                    f"{_range(facts[side])}, got {_range(self.facts[side])} from these tiles. Set `statistics` of the "
                    "data module to the checkpoint to use its normalisation."
                )
        self.facts = self.facts or facts
        state = checkpoint.get("rsgeo_gan_state")
        if isinstance(state, Mapping):
            self.batches_seen = int(state["batches_seen"])
            self._random_state = state["random"]
            self.alarms.load(state["alarms"])
            self.load_extra_state(state["extra"])


def _same_range(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(list(one[key]) == list(other[key]) for key in ("bands", "low", "high"))


def _range(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{band} {low:.4g} to {high:.4g}"
        for band, low, high in zip(facts["bands"], facts["low"], facts["high"], strict=True)
    )
