"""One step of a style-based pair: with and without the losses on features, and beside a public implementation.

    python tests/benchmarks/bench_synthesis.py --size 64 --batch 8 --threads 1 --reference DIR

DIR holds the package stylegan2_pytorch (`pip install --no-deps --target DIR stylegan2_pytorch`, MIT licence); what it
imports beside torch, einops and kornia is replaced by empty modules. A step is one update of the discriminator and one
of the generator on images in memory (32 px or more), logistic losses, fused Adam. Both programs are driven by the same
loop, their widths are the closest that their arguments allow, and the table counts weights and arithmetic of each;
"task" is the step of `ImageSynthesis` under Lightning instead. Times are CPU seconds of the process, which other work
on the machine disturbs least; believe the ratios, for which all cases run in turn.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import statistics
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from bench_training import Paced, clocked, matmul_gflops
from common import arguments, interleave, quiet, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from rsgeo_gan.losses import r1
from rsgeo_gan.losses.features import entropy, halved_uniformity, masked_features

Step = Callable[[], None]


class Pair(NamedTuple):
    """Networks as the loop sees them; the third function adds the losses on features."""

    weights_g: nn.Module
    weights_d: nn.Module
    make: Callable[[], Tensor]
    judge: Callable[[Tensor], Tensor]
    loss_g: Callable[[], Tensor]


def ours(options: argparse.Namespace, regularised: bool = False) -> Pair:
    """The networks of this package."""
    from rsgeo_gan.models import StyleDiscriminator, StyleGenerator

    torch.manual_seed(0)
    made = StyleGenerator(3, options.size, options.width, 512, latent_dim=512, mapping_layers=8)
    judge = StyleDiscriminator(3, options.size, 2 * options.width, 512)
    tap = f"b{min(32, options.size // 4)}"

    def loss() -> Tensor:
        inner = made.forward_features(made.draw(options.batch), taps=(tap,) if regularised else ())
        seen = judge.forward_features(made.forward_head(inner), (tap,) if regularised else ())
        total = F.softplus(-judge.forward_head(seen)).mean()
        if regularised:
            for features in (masked_features(inner[tap]), masked_features(seen[tap])):
                total = total + 0.2 * halved_uniformity(features) - 0.5 * entropy(features)
        return total

    return Pair(made, judge, lambda: made(made.draw(options.batch)), judge, loss)


def reference(options: argparse.Namespace) -> Pair:
    """The other project's mapping, generator and discriminator."""
    sys.path.insert(0, options.reference)
    for name in ("aim", "contrastive_learner", "fire", "retry", "vector_quantize_pytorch"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            for part in ("ContrastiveLearner", "VectorQuantize", "retry_call"):
                setattr(sys.modules[name], part, None)
            sys.modules[f"{name}.api"] = sys.modules[name]
    # It refuses to be imported without a GPU, though its networks do not need one.
    with mock.patch("torch.cuda.is_available", return_value=True):
        theirs = importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")
    torch.manual_seed(0)
    vectors = theirs.StyleVectorizer(512, 8, lr_mul=0.1)
    made = theirs.Generator(options.size, 512, network_capacity=options.width // 2)
    judge = theirs.Discriminator(options.size, network_capacity=options.width // 2)

    def make() -> Tensor:
        # Two styles, as for mixing.
        first = 1 + int(torch.randint(made.num_layers - 1, ()))
        counts = (first, made.num_layers - first)
        styles = theirs.styles_def_to_tensor([(vectors(torch.randn(options.batch, 512)), n) for n in counts])
        return made(styles, torch.rand(options.batch, options.size, options.size, 1))

    def logits(image: Tensor) -> Tensor:
        return judge(image)[0]

    return Pair(nn.ModuleList([vectors, made]), judge, make, logits, lambda: F.softplus(-logits(make())).mean())


def task(options: argparse.Namespace, real: Tensor, regularised: bool = False) -> Step:
    """A whole step of the task under Lightning, without data loading and logging to disk."""
    from rsgeo_gan.losses import NonSaturating
    from rsgeo_gan.tasks import ImageSynthesis

    pair = ours(options)
    share = float(regularised)
    weights = {"uniformity_g": 0.2, "uniformity_d": 0.2, "entropy_g": 0.5, "entropy_d": 0.5}
    weights = {"r1": 0.0, "r2": 0.0} | {name: share * weight for name, weight in weights.items()}
    made = ImageSynthesis(pair.weights_g, pair.weights_d, NonSaturating(), weights=weights)
    sample = {"image": real[0], "mask_valid": torch.ones(1, *real.shape[-2:]), "origin_px": torch.zeros(2).long()}
    return Paced(made, sample, "32-true", options.threads, options.batch)


def stepping(pair: Pair, real: Tensor, penalty: bool = False) -> Step:
    """One update of each network."""
    g = torch.optim.Adam(pair.weights_g.parameters(), 2e-3, (0.0, 0.99), fused=True)
    d = torch.optim.Adam(pair.weights_d.parameters(), 2e-3, (0.0, 0.99), fused=True)

    def step() -> None:
        fake = pair.make().detach()
        loss = F.softplus(pair.judge(fake)).mean() + F.softplus(-pair.judge(real)).mean()
        if penalty:
            loss = loss + r1(real, pair.judge)
        d.zero_grad()
        loss.backward()
        d.step()
        pair.weights_d.requires_grad_(False)
        g.zero_grad()
        pair.loss_g().backward()
        g.step()
        pair.weights_d.requires_grad_(True)

    return step


def work(step: Step) -> float:
    """Multiplications and additions of one step, GFLOP."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def cost(seconds: Mapping[str, Sequence[float]], name: str, baseline: str) -> str:
    """Time relative to a baseline: median over rounds, and range."""
    each = [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def main() -> None:
    quiet()
    options = arguments(__doc__.splitlines()[0], size=64, batch=8, width=32, rounds=5, threads=1, reference="", only="")
    torch.set_num_threads(options.threads)
    import lightning.pytorch  # noqa: F401  (sets its own level when imported)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(1)
    real = torch.rand(options.batch, 3, options.size, options.size) * 2 - 1
    pairs: dict[str, Pair] = {}

    def loop(name: str, pair: Pair) -> Step:
        pairs[name] = pair
        return stepping(pair, real, penalty="R1" in name)

    recipes: dict[str, Callable[[str], Step]] = {
        "ours": lambda name: loop(name, ours(options)),
        "ours, UR and ER": lambda name: loop(name, ours(options, regularised=True)),
        "ours, R1": lambda name: loop(name, ours(options)),
        "ours, R1, UR and ER": lambda name: loop(name, ours(options, regularised=True)),
        "task": lambda _: task(options, real),
        "task, UR and ER": lambda _: task(options, real, regularised=True),
    }
    if options.reference:
        recipes |= {name: lambda name: loop(name, reference(options)) for name in ("reference", "reference, R1")}
    else:
        sys.stdout.write("no --reference given: the rows of the public implementation are left out\n")
    words = options.only.split(";") if options.only else list(recipes)
    steps = {name: make(name) for name, make in recipes.items() if name in words}
    # The counter cannot follow a gradient of a gradient.
    done = {name: work(steps[name]) for name in pairs if "R1" not in name}
    peak = matmul_gflops()
    seconds = interleave({name: clocked(step) for name, step in steps.items()}, options.rounds)
    rows: list[list[Any]] = []
    for name in steps:
        plain = name.replace(", UR and ER", "").replace("reference", "ours")
        counts = ""
        if name in pairs:
            networks = (pairs[name].weights_g, pairs[name].weights_d)
            counts = ", ".join(f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f}" for net in networks)
        took = f"{statistics.median(seconds[name]):.2f}"
        rate = f"{done[name]:.0f}, {done[name] / min(seconds[name]) / peak:.0%}" if name in done else ""
        rows.append([name, took, cost(seconds, name, plain) if plain in seconds else "", counts, rate])
    setting = f"batch {options.batch}, {options.size} px, {options.threads} threads, {options.rounds} rounds"
    heads = [
        "step",
        "CPU s",
        "time to the same without UR, ER; reference to ours",
        "M weights G, D",
        f"GFLOP, of {peak:.0f} GFLOP/s",
    ]
    table(f"Style-based step, {setting}", heads, rows)


if __name__ == "__main__":
    main()
