"""What all adversarial tasks share: two optimisers, named terms, schedules, and state that resumes exactly.

A task implements `discriminator_terms` and `generator_terms`, dictionaries of named, unweighted scalars. The
base weighs, sums, steps, logs, and stops with a message when a sum or a gradient is not finite.

Both sides step on what the other was before the step, as the CycleGAN authors' program does. Gradients of several
batches can therefore be summed up before both step, exactly as if they had been one batch.

`global_step` counts optimiser steps, two for `accumulate` batches; `batches_seen` counts batches.
"""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchgeo.tasks import BaseTask

from rsgeo_gan import __version__
from rsgeo_gan.errors import CheckpointError, TrainingError
from rsgeo_gan.tasks import randomness
from rsgeo_gan.tasks.alarms import Alarms
from rsgeo_gan.tasks.stepping import check_trainer, compile_networks, limit_gradients, window

__all__ = ["AdversarialTask"]

log = logging.getLogger(__name__)

Batch = dict[str, Any]
Terms = dict[str, Tensor]

FORMAT = 1
_OBSERVE_EVERY = 10
_SIDES = ("train_d", "train_g")


class AdversarialTask(BaseTask):
    """Base of all tasks with a generator and a discriminator.

    A subclass keeps its networks in `self.parts` before it calls this constructor; they become modules of the same
    names. (Modules cannot be assigned before `Module.__init__`, and torchgeo's constructor calls the hooks.)

    Args:
        weights: Weight by term, replacing defaults of the task (`default_weights`).
        lr: Learning rate of the generators.
        lr_discriminator: Learning rate of the discriminators; that of the generators when None.
        betas: Adam's two decay rates.
        optimizer: Adam, or plain gradient descent, under which the size of a weight matters.
        momentum: Of plain gradient descent.
        warmup_epochs: Epochs over which the learning rates rise linearly.
        warmup_steps: Steps over which they rise linearly; of use where epochs are few.
        decay_share: Share of the epochs, at the end, over which they fall linearly towards zero.
        fused: An optimiser's step in one kernel; else torch's own choice, which is `foreach` on a GPU.
        accumulate: Batches whose mean gradient makes one step. Those left at an epoch's end make a step too.
        clip_norm: Largest norm of the gradients, of the discriminators, of the generators, and of each attribute that
            is `apart`; no limit when None.
        channels_last: Keep the networks' weights in the memory order of GPU convolution kernels.
        compile: Compile the networks, or the mode of `torch.compile`.

    Raises:
        ValueError: If a weight names no term of the task, or a number is out of range.
    """

    #: Everything is kept with the weights, also the weights of the terms.
    ignore = None
    #: Terms of the task and their weights.
    default_weights: ClassVar[dict[str, float]] = {}
    #: Attributes whose parameters the first, the discriminators' optimiser has.
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator",)
    #: Attributes whose parameters the second, the generators' optimiser has.
    generators: ClassVar[tuple[str, ...]] = ("generator",)
    #: Attributes among them that are a parameter group each, so that no limit on gradients ties them to the others.
    apart: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        lr: float = 2e-4,
        lr_discriminator: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        warmup_epochs: int = 0,
        decay_share: float = 0.5,
        fused: bool = True,
        warmup_steps: int = 0,
        accumulate: int = 1,
        clip_norm: float | None = None,
        channels_last: bool = False,
        compile: bool | str = False,
        optimizer: Literal["adam", "sgd"] = "adam",
        momentum: float = 0.0,
    ) -> None:
        unknown = set(weights or ()) - set(self.default_weights)
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: weights for unknown terms {sorted(unknown)}; expected some of "
                f"{sorted(self.default_weights)}"
            )
        if not 0 <= decay_share <= 1 or warmup_epochs < 0 or warmup_steps < 0:
            raise ValueError(
                f"{type(self).__name__}: expected 0 <= decay_share <= 1 and warmup_epochs, warmup_steps >= 0, got "
                f"{decay_share}, {warmup_epochs} and {warmup_steps}"
            )
        if accumulate < 1 or (clip_norm is not None and clip_norm <= 0):
            raise ValueError(
                f"{type(self).__name__}: expected accumulate >= 1 and clip_norm > 0 or none, got {accumulate} and "
                f"{clip_norm}"
            )
        if optimizer not in ("adam", "sgd") or not 0 <= momentum < 1 or (momentum and optimizer == "adam"):
            raise ValueError(
                f"{type(self).__name__}: expected the optimizer adam, or sgd with a momentum from 0 to below 1, got "
                f"{optimizer} with momentum {momentum}; Adam's is in betas"
            )
        self.weights = {**self.default_weights, **(weights or {})}
        self.lr = lr
        self.lr_discriminator = lr if lr_discriminator is None else lr_discriminator
        self.betas = betas
        self.optimizer = optimizer
        self.momentum = momentum
        self.warmup_epochs = warmup_epochs
        self.decay_share = decay_share
        self.fused = fused
        self.warmup_steps = warmup_steps
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.channels_last = channels_last
        self.compile_mode = compile
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
        self._gradients: dict[str, Tensor] = {}
        self._window_open = False

    parts: Mapping[str, nn.Module | None]

    @abstractmethod
    def discriminator_terms(self, batch: Batch) -> Terms:
        """Return the discriminators' named, unweighted scalars; none where they rest in this batch."""

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
            if part is not None and self.channels_last:
                part.to(memory_format=torch.channels_last)
            setattr(self, name, part)

    def configure_callbacks(self) -> list[Callback]:
        """Look at the trainer before Lightning does, whose messages do not know this task's own settings."""
        check_trainer(self.trainer, type(self).__name__)
        return []

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log; what is measured on held-out tiles is averaged over all processes."""
        if self._trainer is not None and not self._trainer.training:
            kwargs["sync_dist"] = True
            if kwargs.get("batch_size") is not None:
                # Lightning averages the counts of the processes, which it would round down if they were integers.
                kwargs["batch_size"] = float(kwargs["batch_size"])
        super().log(*args, **kwargs)

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the discriminators, then that of the generators, and their schedules."""
        optimizers = [
            self._optimizer(self._groups_of(names), lr)
            for names, lr in ((self.discriminators, self.lr_discriminator), (self.generators, self.lr))
        ]
        return optimizers, [
            {"scheduler": LambdaLR(optimizer, self.schedule), "interval": "epoch"} for optimizer in optimizers
        ]

    def _optimizer(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        if self.optimizer == "sgd":
            return SGD(groups, lr=lr, momentum=self.momentum, fused=self.fused or None)
        return Adam(groups, lr=lr, betas=self.betas, fused=self.fused or None)

    def _groups_of(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the parameters of all attributes together, then those of each one that is apart."""
        together = tuple(name for name in names if name not in self.apart)
        found = [self._parameters_of(group) for group in (together, *((n,) for n in names if n in self.apart))]
        return [{"params": parameters} for parameters in found if parameters] or [{"params": []}]

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
        if stage == "fit" and self.compile_mode:
            compile_networks((getattr(self, name) for name in self.discriminators + self.generators), self.compile_mode)

    def on_train_start(self) -> None:
        """Bring schedules, gradients and random generators to where the checkpoint left them."""
        self._set_learning_rates(self._epochs_done())
        for name, parameter in self.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)
        self._gradients = {}
        if self._random_state is not None:
            randomness.restore(self._random_state)
            self._random_state = None
        elif self.global_rank:
            # All processes begin with one seed, and would draw the same noise for different patches.
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_epoch_end(self) -> None:
        """Step the schedules."""
        self._set_learning_rates(self._epochs_done())

    def _epochs_done(self) -> int:
        progress: Any = self.trainer.fit_loop.epoch_progress
        return int(progress.current.processed)

    def _set_learning_rates(self, epoch: int) -> None:
        """Set, rather than step, so that stopping between an epoch's last batch and its end changes nothing."""
        steps = self.global_step // 2
        factor = self.schedule(epoch) * (min(1.0, (steps + 1) / self.warmup_steps) if self.warmup_steps else 1.0)
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if not isinstance(scheduler, LambdaLR):
                continue
            scheduler.last_epoch = epoch
            rates = [base * factor for base in scheduler.base_lrs]
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Add this batch to both gradients, and step both optimisers when a window is full."""
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        first, length = window(batch_idx, self.accumulate, self.trainer.num_training_batches)
        self._window_open = batch_idx + 1 < first + length
        batch = self.prepare(dict(batch))
        size = len(next(value for value in batch.values() if isinstance(value, Tensor) and value.ndim > 1))
        sums: dict[str, Tensor | float] = dict.fromkeys(_SIDES, float("nan"))
        for prefix, optimizer, terms_of in zip(
            _SIDES, optimizers, (self.discriminator_terms, self.generator_terms), strict=True
        ):
            with optimizer.toggle_model(sync_grad=not self._window_open):
                terms = terms_of(batch)
                if batch_idx == first:
                    optimizer.zero_grad(set_to_none=True)
                if not terms and prefix == _SIDES[0]:
                    continue
                total = self._weighted(prefix, terms)
                self.manual_backward(total / length)
            sums[prefix] = total.detach()
            self.log_dict({f"{prefix}/{name}": term.detach() for name, term in terms.items()}, batch_size=size)
            self.log(f"{prefix}/total", total.detach(), prog_bar=True, batch_size=size)
        if not self._window_open:
            self._step(optimizers, size)
        self.batches_seen += 1
        if self.batches_seen % _OBSERVE_EVERY == 0:
            state = self.alarms.observe(self.batches_seen, self.contrast(batch), *(float(sums[p]) for p in _SIDES))
            self.log_dict({f"alarm/{name}": value for name, value in state.items()}, batch_size=size)

    def _step(self, optimizers: list[LightningOptimizer], size: int) -> None:
        """Step all optimisers, or none when a gradient is not finite."""
        norms = [limit_gradients(cast(Optimizer, optimizer), self.clip_norm) for optimizer in optimizers]
        for prefix, norm in zip(_SIDES, norms, strict=True):
            if not torch.isfinite(norm):
                raise TrainingError(self._stopped(f"the gradient of {prefix} is not finite"))
            self.log(f"{prefix}/gradient_norm", norm, batch_size=size)
        if self.global_step // 2 < self.warmup_steps:
            self._set_learning_rates(self._epochs_done())
        for optimizer in optimizers:
            optimizer.step()
        self.after_step()

    def _weighted(self, prefix: str, terms: Terms) -> Tensor:
        if not terms:
            raise ValueError(f"{type(self).__name__}: no terms for {prefix}; a step needs one at least")
        total = torch.stack([self.weight_of(name) * term.float() for name, term in terms.items()]).sum()
        if not torch.isfinite(total):
            values = {name: float(term.detach()) for name, term in terms.items()}
            broken = [name for name, term in terms.items() if not torch.isfinite(term)] or list(values)
            raise TrainingError(self._stopped(f"the {prefix} term {', '.join(broken)} is not finite (terms {values})"))
        return total

    def _stopped(self, why: str) -> str:
        return (
            f"Training stopped at batch {self.batches_seen} of epoch {self.current_epoch}: {why}. "
            f"{self._last_checkpoint()} Lower the learning rates, limit the gradients (clip_norm) or train in float32."
        )

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
        grads = {name: p.grad for name, p in self.named_parameters() if p.grad is not None and self._window_open}
        state = {
            "batches_seen": self.batches_seen,
            "random": randomness.capture(),
            "alarms": self.alarms.state(),
            "extra": self.extra_state(),
            "gradients": {name: grad.detach().cpu() for name, grad in grads.items()},
        }
        # Processes differ in their random numbers and in what a task keeps.
        states = randomness.of_all_ranks(state)
        checkpoint["rsgeo_gan_state"] = states[0]
        if len(states) > 1:
            checkpoint["rsgeo_gan_ranks"] = states

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
        self._same_optimizers(checkpoint)
        facts = dict(stored.get("facts") or {})
        for side in ("source", "target", "image", "reference"):
            if self.facts.get(side) and facts.get(side) and not _same_range(self.facts[side], facts[side]):
                raise CheckpointError(
                    f"The checkpoint was trained with another normalisation of the {side} side: expected "
                    f"{_range(facts[side])}, got {_range(self.facts[side])} from these tiles. Set `statistics` of the "
                    "data module to the checkpoint to use its normalisation."
                )
        asked, had = (held.get("conditions") for held in (self.facts, facts))
        if asked and had and asked != had:
            raise CheckpointError(
                f"The checkpoint was trained with other conditions: expected {had}, got {asked} from these tiles. Use "
                "tiles of the same classes and limits, or begin a new training."
            )
        self.facts = self.facts or facts
        state, ranks = checkpoint.get("rsgeo_gan_state"), checkpoint.get("rsgeo_gan_ranks", [])
        if self._trainer is not None and len(ranks) == self._trainer.world_size:
            state = ranks[self.global_rank]
        if isinstance(state, Mapping):
            self.batches_seen = int(state["batches_seen"])
            self._random_state = state["random"]
            self.alarms.load(state["alarms"])
            self.load_extra_state(state["extra"])
            self._gradients = dict(state.get("gradients", {}))

    def _same_optimizers(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse to go on with optimisers that knew other parameters, as older networks have."""
        if self._trainer is None or not self._trainer.training:
            return
        for states, names in zip(
            checkpoint.get("optimizer_states", ()), (self.discriminators, self.generators), strict=False
        ):
            kept = sum(len(group["params"]) for group in states["param_groups"])
            kind = "adam" if "betas" in states["param_groups"][0] else "sgd"
            if kind != self.optimizer:
                raise CheckpointError(
                    f"The checkpoint cannot be trained on: its optimiser is {kind}, the recipe's is {self.optimizer}; "
                    f"set model.optimizer to {kind}, or begin a new training."
                )
            if kept != (now := len(self._parameters_of(names))):
                raise CheckpointError(
                    f"The checkpoint cannot be trained on: {', '.join(names)} had {kept} parameter tensors when it was "
                    f"written, and have {now} now; another version of the package or another recipe wrote it. Begin "
                    "a new training; `rsgeo-gan generate` still takes the checkpoint."
                )


def _same_range(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(list(one[key]) == list(other[key]) for key in ("bands", "low", "high"))


def _range(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{band} {low:.4g} to {high:.4g}"
        for band, low, high in zip(facts["bands"], facts["low"], facts["high"], strict=True)
    )
