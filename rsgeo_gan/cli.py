"""The command line: every stage and the whole chain with progress, and LightningCLI's commands untouched.

Exit codes: 0 done; 1 something in the input or output is wrong and the message says what; 2 wrong usage;
3 more scenes or pairs failed than the catalogue accepts; 4 the training process failed; 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
import yaml
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from typer.core import TyperGroup

from rsgeo_gan import __version__
from rsgeo_gan.catalog import Catalog
from rsgeo_gan.chain import DIRECTIONS, STAGES, Direction, Job, Outcome, headline, nothing_new, prepare, run_stage
from rsgeo_gan.errors import FailedShareError, RSGeoGANError, TrainingError
from rsgeo_gan.manifest import write_text
from rsgeo_gan.progress import Progress
from rsgeo_gan.training import MODES

__all__ = ["app", "main"]

EXIT_ERROR, EXIT_USAGE, EXIT_FAILED_SHARE, EXIT_TRAINING, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

_PLAIN_WIDTH = 120
"""Columns of the final table where the output is not a terminal."""

_screen = Console(stderr=True)
_debug = False


class _Commands(TyperGroup):
    """Turns errors meant for the user into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RSGeoGANError, OSError) as error:
            if _debug:
                raise
            _screen.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(_exit_code(error)) from error
        except KeyboardInterrupt as error:
            _screen.print("Interrupted. Start again to continue; finished work is kept.")
            raise typer.Exit(EXIT_INTERRUPTED) from error


def _exit_code(error: BaseException) -> int:
    if isinstance(error, FailedShareError):
        return EXIT_FAILED_SHARE
    return EXIT_TRAINING if isinstance(error, TrainingError) else EXIT_ERROR


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 wrong input or output (the message says what), 2 wrong usage, "
    "3 more scenes failed than the catalogue accepts, 4 the training process failed, 130 interrupted.",
)

CatalogOption = Annotated[
    str, typer.Option("--catalog", "-c", help="Catalogue: a YAML file, or a name such as `sample`.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Output folder; a second call finishes what is missing.")]
TrainOption = Annotated[
    str,
    typer.Option("--train", metavar="|".join(MODES), help="When to train; if_missing keeps a published checkpoint."),
]
DirectionOption = Annotated[
    str,
    typer.Option(
        "--direction", metavar="|".join((*DIRECTIONS, "both")), help="What to generate; default: the catalogue's own."
    ),
]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Recipe name or YAML; default: the catalogue's own.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a catalogue entry, e.g. pairing.max_gap_days=5."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each stage does.")] = False,
) -> None:
    """Turn imperfectly aligned EO and SAR rasters into trained models and CRS-exact GeoTIFFs.

    Begin with [bold]rsgeo-gan demo[/bold].
    """
    global _debug
    _debug = debug
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    messages = logging.getLogger("rsgeo_gan")
    messages.setLevel(level)
    messages.handlers = [RichHandler(console=_screen, show_path=debug, show_time=False)]


@app.command()
def demo(out: OutOption = Path("out/demo")) -> None:
    """Make a small synthetic scene pair, train on it and generate: about ten minutes on two cores.

    Example: rsgeo-gan demo --out out/demo
    """
    _run(Job("sample", str(out), recipe="translation-small"))


@app.command(
    epilog="Examples: rsgeo-gan run --catalog catalogs/sample.yaml --out out/sample; "
    "rsgeo-gan run --source EO.tif --target SAR.tif --out out/mine --direction both"
)
def run(
    out: OutOption,
    catalog: Annotated[str | None, typer.Option("--catalog", "-c", help="Catalogue: a YAML file or a name.")] = None,
    source: Annotated[Path | None, typer.Option(help="EO raster of your own, instead of a catalogue.")] = None,
    target: Annotated[Path | None, typer.Option(help="SAR raster of your own, instead of a catalogue.")] = None,
    source_sensor: Annotated[str | None, typer.Option(help="Sensor of --source; default: told from the file.")] = None,
    target_sensor: Annotated[str | None, typer.Option(help="Sensor of --target; default: told from the file.")] = None,
    train: TrainOption = "if_missing",
    direction: DirectionOption = "",
    recipe: RecipeOption = "",
    settings: SetOption = None,
) -> None:
    """Run the whole chain: ingest, coregister, tile, train, generate, report."""
    by_files = source is not None or target is not None
    if by_files == (catalog is not None) or (source is None) != (target is None):
        raise typer.BadParameter("give either --catalog, or both --source and --target", param_hint="--catalog")
    extra = _settings(settings)
    if source is not None and target is not None:
        made = Catalog.for_files(
            source, target, source_sensor=source_sensor, target_sensor=target_sensor, settings=extra
        )
        text = yaml.safe_dump(made.model_dump(mode="json", exclude_unset=True), sort_keys=False)
        catalog, extra = str(write_text(out / "catalog.yaml", text)), {}
    _run(_job(str(catalog), out, train, direction, recipe, extra))


def _stage_command(name: str, text: str) -> None:
    """Add one stage as a command of its own."""

    def command(catalog: CatalogOption, out: OutOption, settings: SetOption = None) -> None:
        _run(_job(catalog, out, "if_missing", "", "", _settings(settings)), (name,))

    command.__doc__ = f"{text}\n\nExample: rsgeo-gan {name} --catalog catalogs/sample.yaml --out out/sample"
    app.command(name)(command)


_stage_command("ingest", "Find, fetch and check the scenes of a catalogue.")


_PAIR_OPTIONS = (
    "model",
    "max_shift_px",
    "method",
    "reference_sensor",
    "moving_sensor",
    "bands",
    "reference_bands",
    "moving_bands",
    "workers",
    "strict",
)


@app.command(
    epilog="Examples: rsgeo-gan coregister EO.tif SAR.tif --out out/aligned; "
    "rsgeo-gan coregister --catalog catalogs/sample.yaml --out out/sample"
)
def coregister(
    context: typer.Context,
    out: OutOption,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REFERENCE MOVING",
            help="The raster that gives the geometry and the one to be aligned, instead of a catalogue; several are "
            "aligned as a series, each checked by its neighbours.",
            show_default=False,
        ),
    ] = None,
    catalog: Annotated[
        str | None, typer.Option("--catalog", "-c", help="Catalogue: pair its scenes and measure every pair.")
    ] = None,
    settings: SetOption = None,
    model: Annotated[
        str, typer.Option(metavar="auto|none|shift|affine|field", help="Freedom allowed; auto: what the data carry.")
    ] = "auto",
    max_shift_px: Annotated[
        float, typer.Option(help="Largest displacement looked for, pixels of the reference, at most 256.")
    ] = 12.0,
    method: Annotated[
        str, typer.Option(metavar="structure|double-angle|gradient", help="What is compared.")
    ] = "structure",
    reference_sensor: Annotated[
        str | None, typer.Option(help="Sensor of REFERENCE; default: told from the file, or values as they are.")
    ] = None,
    moving_sensor: Annotated[str | None, typer.Option(help="Sensor of MOVING; default likewise.")] = None,
    bands: Annotated[
        str | None, typer.Option(metavar="N,N", help="Bands of both to match by, counted from 1; default: up to two.")
    ] = None,
    reference_bands: Annotated[str | None, typer.Option(metavar="N,N", help="Bands of REFERENCE to match by.")] = None,
    moving_bands: Annotated[str | None, typer.Option(metavar="N,N", help="Bands of MOVING to match by.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Parallel workers.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 1 when a pair is declined.")] = False,
) -> None:
    """Align one raster to another, or pair the scenes of a catalogue and measure their displacement."""
    if bool(files) == (catalog is not None):
        raise typer.BadParameter("give either REFERENCE and MOVING, or --catalog", param_hint="REFERENCE MOVING")
    if catalog is not None:
        _refuse(context, "--catalog", *_PAIR_OPTIONS)
        return _run(_job(catalog, out, "if_missing", "", "", _settings(settings)), ("coregister",))
    _refuse(context, "files", "settings")
    if files is None or len(files) < 2:
        raise typer.BadParameter(f"expected at least two files, got {len(files or ())}", param_hint="REFERENCE MOVING")
    from rsgeo_gan.coregister.features import METHODS
    from rsgeo_gan.coregister.product import align_pair
    from rsgeo_gan.coregister.registration import Freedom
    from rsgeo_gan.coregister.series import align_series

    models = get_args(Freedom)
    if model not in models:
        raise typer.BadParameter(f"expected one of {', '.join(models)}, got {model!r}", param_hint="--model")
    if method not in METHODS:
        raise typer.BadParameter(f"expected one of {', '.join(METHODS)}, got {method!r}", param_hint="--method")
    if not 0 < max_shift_px <= 256:
        text = f"expected more than 0 and at most 256, got {max_shift_px:g}"
        raise typer.BadParameter(text, param_hint="--max-shift-px")
    reference, *moving = files
    options: dict[str, Any] = {
        "reference_sensor": reference_sensor,
        "reference_bands": _numbers(reference_bands, "--reference-bands") or _numbers(bands, "--bands"),
        "moving_bands": _numbers(moving_bands, "--moving-bands") or _numbers(bands, "--bands"),
        "model": cast("Freedom", model),
        "max_shift_px": max_shift_px,
        "method": method,
        "workers": workers,
    }
    if len(moving) == 1:
        product = align_pair(reference, moving[0], out, moving_sensor=moving_sensor, **options)
        summary, declined = product.summary, product.status == "declined"
    else:
        with _bar("series") as progress:
            series = align_series(reference, moving, out, sensors=moving_sensor, progress=progress, **options)
        summary, declined = series.summary, not all(scene.displacement.reliable for scene in series.scenes)
    _screen.print(summary, highlight=False, markup=False, soft_wrap=True)
    if strict and declined:
        raise typer.Exit(EXIT_ERROR)


def _refuse(context: typer.Context, beside: str, *names: str) -> None:
    """Refuse options that mean nothing beside another."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = "--set" if name == "settings" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"has no meaning beside {beside}", param_hint=option)


def _numbers(text: str | None, option: str) -> list[int] | None:
    """Read band numbers such as `3,4`."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected band numbers such as 3,4; got {text!r}", param_hint=option) from error


_stage_command("tile", "Warp both sides onto one grid, once, and cut it into tiles.")


@app.command("train")
def train_command(
    catalog: CatalogOption,
    out: OutOption,
    train: TrainOption = "if_missing",
    recipe: RecipeOption = "",
    settings: SetOption = None,
) -> None:
    """Train on the tiles, or continue a killed training, and publish the checkpoint.

    Example: rsgeo-gan train --catalog catalogs/sample.yaml --out out/sample --train finetune
    """
    _run(_job(catalog, out, train, "", recipe, _settings(settings)), ("train",))


@app.command()
def generate(
    catalog: CatalogOption,
    out: OutOption,
    direction: DirectionOption = "",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A .ckpt file or an exported folder, instead of the published checkpoint.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Generate one GeoTIFF per scene with the published checkpoint, or with another one.

    Example: rsgeo-gan generate --catalog catalogs/sample.yaml --out out/sample --direction both
    """
    job = _job(catalog, out, "never", direction, "", _settings(settings))
    _run(replace(job, checkpoint=str(checkpoint or "")), ("generate",))


@app.command(
    "export", epilog="Example: rsgeo-gan export out/sample/models/translation-1a2b3c4d5e6f.ckpt --out out/model"
)
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="The .ckpt file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; an earlier export there is replaced.")],
    direction: Annotated[
        str,
        typer.Option(metavar="|".join((*DIRECTIONS, "both")), help="What to export; default: all the checkpoint has."),
    ] = "",
    scene: Annotated[
        Path | None, typer.Option(help="Raster whose statistics freeze the normalisation of one direction.")
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(help="tiles.json whose statistics do so; default: the tiles beside a published checkpoint."),
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write ONNX for onnxruntime and for QGIS with Deepness.")] = True,
    offset_dn: Annotated[
        float,
        typer.Option(
            help="Added to stored values first, such as -1000 for Sentinel-2 from processing baseline 04.00 on."
        ),
    ] = 0.0,
    tile_px: Annotated[int, typer.Option(min=64, max=4096, help="Side of the tiles in QGIS, pixels.")] = 512,
) -> None:
    """Write a trained model for others: safetensors, ONNX, a STAC item and a model card, without pickle."""
    if scene is not None and tiles is not None:
        raise typer.BadParameter("give either --scene or --tiles", param_hint="--scene")
    from rsgeo_gan.export import export

    with _bar("export") as progress:
        made = export(
            checkpoint,
            out,
            directions=_directions(direction),
            scene=scene,
            tiles=tiles,
            onnx=onnx,
            offset_dn=offset_dn,
            tile_px=tile_px,
            progress=progress,
        )
    text = f"    export  {', '.join(made.directions)} in {made.path}"
    if onnx:
        text += f"; normalisation frozen to {made.origin}; ONNX within {made.difference:.1g} of PyTorch"
    _screen.print(text, highlight=False, markup=False, soft_wrap=True)


@app.command(
    "displacement", epilog="Example: rsgeo-gan displacement best.ckpt --tiles out/mine/tiles/tiles.json --out out/left"
)
def displacement_command(
    checkpoint: Annotated[Path, typer.Argument(help="The .ckpt file of a training with a RegistrationHead.")],
    tiles: Annotated[Path, typer.Option(help="tiles.json, or its folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")],
    direction: Annotated[
        str, typer.Option(metavar="|".join(DIRECTIONS), help="Generator to use; default: the first one there is.")
    ] = "",
) -> None:
    """Show how far pairs are still apart by the registration head: rasters and arrows for QGIS."""
    if direction == "both":
        raise typer.BadParameter("give one direction at a time", param_hint="--direction")
    from rsgeo_gan.inference import learned_displacement

    with _bar("displacement") as progress:
        made = learned_displacement(
            checkpoint, tiles, out, direction=next(iter(_directions(direction)), None), progress=progress
        )
    lengths = sorted(item.properties["rsgeo:median_px"] or 0.0 for item in made)
    pairs = "1 pair" if len(lengths) == 1 else f"{len(lengths)} pairs"
    text = f"displacement  {pairs} in {out}; median length {lengths[0]:.2f} to {lengths[-1]:.2f} px"
    _screen.print(text, highlight=False, markup=False, soft_wrap=True)


_stage_command("report", "Write the report: map, quick-looks, scores, what was dropped and why.")


_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _lightning_command(name: str, text: str) -> None:
    """Add one command of LightningCLI, its arguments passed on untouched."""

    def command(ctx: typer.Context) -> None:
        _lightning([name, *ctx.args])

    command.__doc__ = f"{text}\n\nExample: rsgeo-gan {name} --config recipe.yaml (as `torchgeo {name}`)"
    app.command(name, context_settings=_THROUGH, add_help_option=False)(command)


_lightning_command("fit", "Train from a recipe, by LightningCLI.")
_lightning_command("validate", "Evaluate a checkpoint on the validation split, by LightningCLI.")
_lightning_command("test", "Evaluate a checkpoint on the test split, by LightningCLI.")
_lightning_command("predict", "Predict with a checkpoint, by LightningCLI.")


def _lightning(arguments: Sequence[str]) -> None:
    from lightning.pytorch.cli import LightningCLI
    from torchgeo.datamodules import BaseDataModule
    from torchgeo.tasks import BaseTask

    sys.argv = ["rsgeo-gan", *arguments]
    LightningCLI(
        model_class=BaseTask,
        datamodule_class=BaseDataModule,
        seed_everything_default=0,
        parser_kwargs={"version": __version__},
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
    )


def _settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE pairs, values as YAML."""
    out: dict[str, Any] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--set")
        try:
            out[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"the value of {pair!r} is not YAML", param_hint="--set") from error
    return out


def _job(catalog: str, out: Path, train: str, direction: str, recipe: str, settings: dict[str, Any]) -> Job:
    if train not in MODES:
        raise typer.BadParameter(f"expected one of {', '.join(MODES)}, got {train!r}", param_hint="--train")
    return Job(catalog, str(out), train=train, directions=_directions(direction), recipe=recipe, settings=settings)


def _directions(direction: str) -> tuple[Direction, ...]:
    if direction not in ("", "both", *DIRECTIONS):
        raise typer.BadParameter(
            f"expected one of {', '.join(DIRECTIONS)}, both; got {direction!r}", param_hint="--direction"
        )
    return DIRECTIONS if direction == "both" else (cast("Direction", direction),) if direction else ()


def _run(job: Job, names: Sequence[str] = ()) -> None:
    """Run stages of a job with one bar each, then say what came of it."""
    signal.signal(signal.SIGTERM, _terminated)
    prepare(job)
    chosen = [stage.name for stage in STAGES if not names or stage.name in names]
    outcomes: list[Outcome] = []
    for name in chosen:
        with _bar(name) as progress:
            outcome = run_stage(name, job, progress)
        outcomes.append(outcome)
        _screen.print(_line(outcome), highlight=False, markup=False, soft_wrap=True)
    if not names:
        _close(job, outcomes)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _line(outcome: Outcome) -> str:
    parts = [outcome.note or f"{outcome.total} items", f"{outcome.new} new" if outcome.new else "nothing new"]
    if outcome.dropped:
        parts.append(f"{outcome.dropped} dropped (reasons in {outcome.path})")
    return f"{outcome.stage:>10}  {', '.join(parts)}"


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """Draw one stage's bar with its remaining time; gone when the stage ends."""
    columns = (
        TextColumn("{task.fields[stage]:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=_screen, transient=True, disable=not _screen.is_terminal) as bars:
        task = bars.add_task("", total=None, stage=name)

        def report(label: str, done: int, total: int) -> None:
            bars.update(task, description="" if label == name else label, completed=done, total=total or None)

        yield report


def _close(job: Job, outcomes: Sequence[Outcome]) -> None:
    """Print the scores, the products and the way to the report."""
    console = Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    root = job.root
    products = sorted((root / "products").rglob("*.tif"))
    for direction, rows in groupby(headline(job), key=lambda row: str(next(iter(row.values()))).rpartition(": ")[0]):
        console.print(_scores(direction, list(rows)))
    if nothing_new(list(outcomes)):
        console.print("Nothing new: everything was done already.", highlight=False)
    console.print(f"{len(products)} products in {root / 'products'}", highlight=False, soft_wrap=True)
    console.print(f"Report: {root / 'report' / 'index.html'}", highlight=False, soft_wrap=True)


def _scores(direction: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Set the scores of one direction in a table; the first entry of a row is `direction: kind`."""
    table = Table(title=f"Scores, {direction}", title_justify="left", box=box.SIMPLE_HEAD)
    first, *others = rows[0]
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        label, *values = (str(value) for value in row.values())
        table.add_row(label.rpartition(": ")[2], *values)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with an exit code."""
    # Threads that spin while they wait cost more than they bring as soon as a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="rsgeo-gan")


if __name__ == "__main__":
    main()
