"""Answers registration requests with AROSICS; runs in an interpreter that has it and GDAL's own bindings.

One JSON request a line on standard input, one JSON answer a line on standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")

PIXEL_M = 10.0
EDGE_M = (300000.0, 5000000.0)
LEAST_POINTS = 4


def peak_mib():
    """Largest resident memory of this process so far."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def older_gdal(gdal, ogr):
    """AROSICS' helpers expect GDAL 3.8: options and files as contexts. Give an older one the same."""
    if not hasattr(gdal, "config_options"):

        @contextlib.contextmanager
        def config_options(options, thread_local=True):
            before = {key: gdal.GetConfigOption(key) for key in options}
            for key, value in options.items():
                gdal.SetConfigOption(key, value)
            try:
                yield
            finally:
                for key, value in before.items():
                    gdal.SetConfigOption(key, value)

        gdal.config_options = config_options
    if not hasattr(gdal.Dataset, "__enter__"):

        def leave(dataset, *_):
            # Freeing the object is what flushes and closes it before 3.8.
            gdal.Dataset.__swig_destroy__(dataset)
            dataset.thisown, dataset.this = False, None

        gdal.Dataset.__enter__, gdal.Dataset.__exit__ = (lambda dataset: dataset), leave
        ogr.DataSource.__enter__ = lambda source: source
        ogr.DataSource.__exit__ = lambda source, *_: source.Destroy()


def image(values, projection):
    """Tile as AROSICS likes it: integers above 0, 0 for nodata, on a plain UTM grid."""
    from geoarray import GeoArray

    low, high = np.nanpercentile(values, (0.5, 99.5))
    level = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)
    whole = np.where(np.isfinite(level), 1 + 9999 * level, 0).astype(np.uint16)
    return GeoArray(whole, (EDGE_M[0], PIXEL_M, 0.0, EDGE_M[1], 0.0, -PIXEL_M), projection, nodata=0)


def one_shift(reference, moving, reach):
    from arosics import COREG

    side = min(256, min(reference.shape[:2]) // 2)
    search = COREG(reference, moving, max_shift=reach, ws=(side, side), nodata=(0, 0), align_grids=True, CPUs=1, q=True)
    search.calculate_spatial_shifts()
    if not search.success or search.x_shift_px is None:
        return None, "no match"
    # It tells how the moving image is to be put right; its content lies the other way.
    return [[0.0, 0.0, -float(search.x_shift_px), -float(search.y_shift_px)]], ""


def many_shifts(reference, moving, reach):
    from arosics import COREG_LOCAL

    side = 128 if min(reference.shape[:2]) >= 400 else 64
    search = COREG_LOCAL(
        reference, moving, grid_res=32, window_size=(side, side), max_shift=reach, nodata=(0, 0), CPUs=1, q=True,
        progress=False,
    )  # fmt: skip
    search.calculate_spatial_shifts()
    table = search.CoRegPoints_table
    kept = table[(table["OUTLIER"] == False) & (table["X_SHIFT_PX"] != -9999)]  # noqa: E712
    if len(kept) < LEAST_POINTS:
        return None, f"{len(kept)} of {len(table)} points kept"
    columns = (kept["X_IM"], kept["Y_IM"], -kept["X_SHIFT_PX"], -kept["Y_SHIFT_PX"])
    return np.column_stack([np.asarray(column, float) for column in columns]).tolist(), ""


def main():
    aside = io.StringIO()
    missing = ""
    try:
        with contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside):
            from osgeo import gdal, ogr, osr

            older_gdal(gdal, ogr)
            import arosics  # noqa: F401

            system = osr.SpatialReference()
            system.ImportFromEPSG(32632)
            projection = system.ExportToWkt()
    except Exception as error:
        missing = repr(error)[:200]
    at_rest = peak_mib()
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"ok": False, "note": "", "missing": missing, "seconds": 0.0}
        if not missing:
            tiles = np.load(request["tiles"])
            with contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside):
                both = [image(tiles[side], projection) for side in ("reference", "moving")]
                solve = one_shift if request["mode"] == "global" else many_shifts
                start = time.process_time()
                try:
                    points, note = solve(*both, int(np.ceil(request["reach_px"])) + 3)
                    answer.update(ok=points is not None, points=points, note=note)
                except (Exception, SystemExit) as error:
                    answer["note"] = repr(error)[:120]
                answer["seconds"] = time.process_time() - start
            aside.truncate(0)
            aside.seek(0)
        answer["memory_mib"] = [at_rest, peak_mib()]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
