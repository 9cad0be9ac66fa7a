"""Alignment: two rasters, a series of them, or the scenes of a catalogue."""

from __future__ import annotations

from typing import Annotated, Any, cast, get_args

import typer

from rsgeo_gan.cli.options import OutOption, SetOption, make_job, read_numbers, read_settings, refuse
from rsgeo_gan.cli.running import progress_bar, run_job
from rsgeo_gan.cli.shell import EXIT_ERROR, app, screen

__all__ = ["coregister"]

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
        refuse(context, "--catalog", *_PAIR_OPTIONS)
        return run_job(make_job(catalog, out, "if_missing", "", "", read_settings(settings)), ("coregister",))
    refuse(context, "files", "settings")
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
        "reference_bands": read_numbers(reference_bands, "--reference-bands") or read_numbers(bands, "--bands"),
        "moving_bands": read_numbers(moving_bands, "--moving-bands") or read_numbers(bands, "--bands"),
        "model": cast("Freedom", model),
        "max_shift_px": max_shift_px,
        "method": method,
        "workers": workers,
    }
    if len(moving) == 1:
        product = align_pair(reference, moving[0], out, moving_sensor=moving_sensor, **options)
        summary, declined = product.summary, product.status == "declined"
    else:
        with progress_bar("series") as progress:
            series = align_series(reference, moving, out, sensors=moving_sensor, progress=progress, **options)
        summary, declined = series.summary, not all(scene.displacement.reliable for scene in series.scenes)
    screen.print(summary, highlight=False, markup=False, soft_wrap=True)
    if strict and declined:
        raise typer.Exit(EXIT_ERROR)
