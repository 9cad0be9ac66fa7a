"""The trainings that are compared, all with one base network, one loss and one number of steps.

Mode A, `plain|shifted on plain|shifted`: the generator's output, and the images to learn, with low and high frequencies
exchanged. Mode B: `base` alone; four branches around low (the reference's) or high frequencies; `control`, the same
branches without a shift.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bands.data import Data
from rsgeo_gan.losses import Relativistic, r1, r2
from rsgeo_gan.models import DCGANDiscriminator, DCGANGenerator, FrequencyShifted, swap_spectrum

LOW = ((1 / 16, 0.0), (0.0, 1 / 16), (1 / 16, 1 / 16), (-1 / 16, 1 / 16))
HIGH = ((5 / 16, 0.0), (0.0, 5 / 16), (5 / 16, 5 / 16), (-5 / 16, 5 / 16))


@dataclass(frozen=True)
class Size:
    """Of every training.

    Attributes:
        side_px: Of the images.
        steps: Batches.
        batch: Images of a batch.
        width: Channels at the finest resolution.
        branch: Channels of a branch.
        gamma: Weight of both penalties.
        penalty_every: Batches between two evaluations of them.
    """

    side_px: int = 32
    steps: int = 1000
    batch: int = 16
    width: int = 12
    branch: int = 12
    gamma: float = 1.0
    penalty_every: int = 4


FULL = Size(side_px=64, steps=20_000, batch=32, width=64, branch=64)


@dataclass(frozen=True)
class System:
    """What one of the compared trainings does.

    Attributes:
        swap_generator: Exchange low and high frequencies of what the generator puts out.
        swap_data: Exchange those of the images to learn.
        branches: Frequencies of side branches.
        shift: Whether they are shifted.
    """

    swap_generator: bool = False
    swap_data: bool = False
    branches: tuple[tuple[float, float], ...] = ()
    shift: bool = True


SYSTEMS = {
    "plain on plain": System(),
    "shifted on plain": System(swap_generator=True),
    "plain on shifted": System(swap_data=True),
    "shifted on shifted": System(swap_generator=True, swap_data=True),
    "low branches": System(branches=LOW),
    "high branches": System(branches=HIGH),
    "control": System(branches=LOW, shift=False),
}
"""By name; the base alone is "plain on plain"."""


def train(name: str, data: Data, seed: int, size: Size) -> tuple[Callable[[int], Tensor], float]:
    """Train one system.

    Returns:
        A function from a number to so many images with the spectrum of the data, always the same; seconds of training.
    """
    system = SYSTEMS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    bands = data.train.shape[1]
    generator = DCGANGenerator(bands, size.side_px, size.width)
    discriminator = DCGANDiscriminator(bands, size.side_px, size.width).to(device)
    network = generator
    if system.branches:
        network = FrequencyShifted(generator, system.branches, width=size.branch, shift=system.shift)
    network = network.to(device)
    average = copy.deepcopy(network).eval()
    adams = [torch.optim.Adam(n.parameters(), 1e-3, betas=(0.0, 0.99)) for n in (network, discriminator)]
    loss, started = Relativistic(), time.monotonic()
    images = swap_spectrum(data.train) if system.swap_data else data.train
    for step in range(size.steps):
        real = images[torch.randint(len(images), (size.batch,))].to(device)
        fake = _made(network, network.draw(size.batch), system)
        terms = loss.discriminator(discriminator(real), discriminator(fake.detach()))
        if step % size.penalty_every == 0:
            gamma = size.gamma * size.penalty_every
            terms = terms + r1(real, discriminator, gamma) + r2(fake, discriminator, gamma)
        _step(adams[1], terms)
        discriminator.requires_grad_(False)
        _step(adams[0], loss.generator(discriminator(fake), discriminator(real)))
        discriminator.requires_grad_(True)
        _follow(average, network, min(0.995, (1 + step) / (10 + step)))
    seconds = time.monotonic() - started

    @torch.no_grad()
    def draw(count: int) -> Tensor:
        chance = torch.Generator(device).manual_seed(seed)
        parts = [_made(average, average.draw(n, chance), system) for n in _chunks(count, 100)]
        made = torch.cat(parts).float().cpu()
        return swap_spectrum(made) if system.swap_data else made

    return draw, seconds


def _made(network: torch.nn.Module, z: Tensor, system: System) -> Tensor:
    image: Tensor = network(z)
    return swap_spectrum(image) if system.swap_generator else image


def _step(adam: torch.optim.Optimizer, total: Tensor) -> None:
    adam.zero_grad()
    total.backward()
    adam.step()


@torch.no_grad()
def _follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move an exponential average; running moments are taken over."""
    for mine, live in zip(average.parameters(), network.parameters(), strict=True):
        mine.lerp_(live, 1 - decay)
    for mine, live in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(live)


def _chunks(count: int, most: int) -> list[int]:
    return [min(most, count - start) for start in range(0, count, most)]
