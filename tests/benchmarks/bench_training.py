"""One CycleGAN training step: our task and its options, against the CycleGAN authors' program where it is at hand.

    python tests/benchmarks/bench_training.py --width 64 --blocks 9 --size 256 --threads 2 --reference DIR

DIR is a checkout of junyanz/pytorch-CycleGAN-and-pix2pix; its own model class makes the step, on images in memory.
Both see two bands on either side, batch 1, pool of 50. `--only` keeps the cases of the names given, semicolons
between them. Times are CPU seconds of the process, which other work on the machine disturbs least; believe the
ratios, for which all cases run in turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any

import torch
from common import arguments, interleave, quiet, ratios, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], None]
Case = tuple[Step, dict[str, list[nn.Module]]]
"""A step, and the generators and discriminators whose passes are counted."""


def reference(folder: str, options: argparse.Namespace, images: tuple[Tensor, Tensor], identity: float) -> Case:
    """The other project's model, driven as its own training loop drives it."""
    sys.path.insert(0, folder)
    from models.cycle_gan_model import CycleGANModel

    given = {
        "isTrain": True, "gpu_ids": [], "preprocess": "none", "checkpoints_dir": folder, "name": "x",
        "input_nc": 2, "output_nc": 2, "ngf": options.width, "ndf": options.width, "n_layers_D": 3, "netD": "basic",
        "netG": f"resnet_{options.blocks}blocks", "norm": "instance", "no_dropout": True, "init_type": "normal",
        "init_gain": 0.02, "gan_mode": "lsgan", "pool_size": 50, "lr": 2e-4, "beta1": 0.5, "direction": "AtoB",
        "lambda_A": 10.0, "lambda_B": 10.0, "lambda_identity": identity,
    }  # fmt: skip
    with redirect_stdout(None):
        model = CycleGANModel(argparse.Namespace(**given))
    batch = {"A": images[0], "B": images[1], "A_paths": "", "B_paths": ""}

    def step() -> None:
        model.set_input(batch)
        model.optimize_parameters()

    return step, {"G": [model.netG_A, model.netG_B], "D": [model.netD_A, model.netD_B]}


class Paced:
    """A training under Lightning, in a thread of its own, that makes one step whenever it is asked to."""

    def __init__(self, task: Any, sample: dict[str, Tensor], precision: str, threads: int, batch_size: int = 1) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.around: AbstractContextManager[Any] = nullcontext()
        self.error: BaseException | None = None
        self.work = (task, sample, precision, threads, batch_size)
        self.started = False

    def __call__(self) -> None:
        if not self.started:
            threading.Thread(target=self._train, daemon=True).start()
            self.started = True
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def _train(self) -> None:
        from lightning.pytorch import Callback, Trainer
        from torch.utils.data import DataLoader

        outer = self

        class Wait(Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                outer.go.acquire()
                outer.around.__enter__()

            def on_train_batch_end(self, *_: Any) -> None:
                outer.around.__exit__(None, None, None)
                outer.done.release()

        task, sample, precision, threads, batch_size = self.work
        torch.set_num_threads(threads)
        try:
            trainer = Trainer(
                max_epochs=1,
                accelerator="cpu",
                precision=precision,
                callbacks=[Wait()],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(task, DataLoader([sample] * 10_000, batch_size=batch_size))
        except BaseException as error:
            self.error = error
            self.done.release()


def ours(
    options: argparse.Namespace,
    images: tuple[Tensor, Tensor],
    precision: str = "32-true",
    joined: bool = True,
    **more: Any,
) -> Case:
    """A whole step of the task under Lightning, without data loading and logging to disk."""
    from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
    from rsgeo_gan.tasks import CycleTranslation

    torch.manual_seed(0)
    generators = [ResNetGenerator(2, 2, width=options.width, blocks=options.blocks) for _ in range(2)]
    judges = [PatchDiscriminator(2, width=options.width) for _ in range(2)]
    task = CycleTranslation(*generators, *judges, **{"weights": {"pair": 0.0}, **more})
    task._joins = joined
    mask = torch.ones(1, *images[0].shape[-2:])
    sample = {
        "image": images[0][0],
        "image_target": images[1][0],
        "mask_valid": mask,
        "mask_valid_target": mask,
        "confidence": torch.tensor(1.0),
    }
    return Paced(task, sample, precision, options.threads), {"G": generators, "D": judges}


def passes(case: Case) -> tuple[str, float]:
    """Count samples through the networks, forward and backward, and the multiplications and additions of one step."""
    step, networks = case
    counts = dict.fromkeys(("G", "G back", "D", "D back"), 0)

    def counted(kind: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            counts[kind] += len(args[0])
            if out.requires_grad:
                out.register_hook(lambda grad: counts.update({f"{kind} back": counts[f"{kind} back"] + len(grad)}))

        return hook

    handles = [net.register_forward_hook(counted(kind)) for kind, nets in networks.items() for net in nets]
    counter = FlopCounterMode(display=False)
    if isinstance(step, Paced):
        # It counts the thread that it is entered in.
        step.around = counter
        step()
        step.around = nullcontext()
    else:
        with counter:
            step()
    for handle in handles:
        handle.remove()
    return "{G}/{G back}, {D}/{D back}".format(**counts), counter.get_total_flops() / 1e9


def clocked(step: Callable[[], Any]) -> Callable[[], float]:
    """Measure the CPU seconds of a step, all threads together."""

    def timed() -> float:
        start = time.process_time()
        step()
        return time.process_time() - start

    return timed


def matmul_gflops() -> float:
    """What a large float32 matrix product reaches here, GFLOP per CPU second: the best of five."""
    a = torch.rand(2048, 2048)
    took = interleave({"matmul": clocked(lambda: torch.mm(a, a))}, 5)["matmul"]
    return 2 * 2048**3 / 1e9 / min(took)


def main() -> None:
    quiet()
    options = arguments(
        __doc__.splitlines()[0], width=32, blocks=6, size=128, rounds=5, threads=1, reference="", only=""
    )
    torch.set_num_threads(options.threads)
    import lightning.pytorch  # noqa: F401  (sets its own level when imported)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(1)
    images = (
        torch.rand(1, 2, options.size, options.size) * 2 - 1,
        torch.rand(1, 2, options.size, options.size) * 2 - 1,
    )
    with_identity = {"weights": {"pair": 0.0, "identity": 5.0}}
    recipes: dict[str, Callable[[], Case]] = {
        "ours": lambda: ours(options, images),
        "ours, identity": lambda: ours(options, images, **with_identity),
        "ours, passes not joined": lambda: ours(options, images, joined=False),
        "ours, fused off": lambda: ours(options, images, fused=False),
        "ours, channels_last": lambda: ours(options, images, channels_last=True),
        "ours, bf16": lambda: ours(options, images, "bf16-mixed"),
        "ours, bf16, channels_last": lambda: ours(options, images, "bf16-mixed", channels_last=True),
        "ours, compile": lambda: ours(options, images, compile=True),
        "ours, bf16, compile": lambda: ours(options, images, "bf16-mixed", compile=True),
    }
    if options.reference:
        recipes |= {
            "reference": lambda: reference(options.reference, options, images, 0.5),
            "reference, identity off": lambda: reference(options.reference, options, images, 0.0),
        }
    words = options.only.split(";") if options.only else [""]
    cases = {name: make() for name, make in recipes.items() if any(word == name or not word for word in words)}
    found = {name: passes(case) for name, case in cases.items() if "compile" not in name}
    peak = matmul_gflops()
    seconds = interleave({name: clocked(case[0]) for name, case in cases.items()}, options.rounds)
    baseline = "reference" if "reference" in cases else next(iter(cases))
    faster = ratios(seconds, baseline)
    rows = []
    for name in cases:
        count, work = found.get(name, ("", 0.0))
        took = statistics.median(seconds[name])
        rate = f"{work:.0f}, {work / min(seconds[name]) / peak:.0%}" if work else ""
        rows.append([name, f"{took:.2f}", faster[name], count, rate])
    title = (
        f"CycleGAN step, batch 1, {options.size} px, width {options.width}, {options.blocks} blocks, "
        f"{options.threads} threads, {options.rounds} rounds"
    )
    heads = [
        "step",
        "CPU s",
        f"speed to {baseline}",
        "images through G, D forward/back",
        f"GFLOP, of {peak:.0f} GFLOP/s",
    ]
    table(title, heads, rows)


if __name__ == "__main__":
    main()
