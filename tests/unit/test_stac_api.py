"""A STAC API, a token service and ranged files, all on loopback, as the providers of the shipped catalogues work."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from sources import BOX, WHEN, catalogue, decibel, dn, free_port, item, served, write
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from rsgeo_gan import raster
from rsgeo_gan.catalog import Catalog, StacSide, load
from rsgeo_gan.errors import SourceError
from rsgeo_gan.ingest import ingest
from rsgeo_gan.ingest.signing import Signer, unsigned
from rsgeo_gan.ingest.web import get_json
from rsgeo_gan.manifest import Manifest, item_box

S2_BANDS = ("B02", "B03", "B04", "B08")
KEY = "the-right-key"
INNER = BOX[16:80, 24:100]
AREA = {"bbox": [round(part, 6) for part in INNER.footprint("EPSG:4326").boundingbox]}
SUMMER = {"start": "2024-06-01", "end": "2024-06-30"}
QUICK = {"retry_s": 0.01, "retries": 3}


@dataclass
class Provider:
    """The provider's process, told how to behave."""

    folder: Path
    url: str = ""
    api: str = ""
    turn: int = 0

    def set(self, **changes: Any) -> None:
        """Change how it behaves, and forget what it was asked."""
        requests.post(f"{self.url}/control", json=changes, timeout=30).raise_for_status()

    @property
    def seen(self) -> dict[str, Any]:
        """What it was asked, the keys it was sent, the faults not yet made."""
        return dict(requests.get(f"{self.url}/control", timeout=30).json())

    @property
    def tokens(self) -> int:
        """How many tokens it was asked for."""
        return int(self.seen["asked"].get("token", 0))

    @property
    def signature(self) -> str:
        return str(self.seen["signature"])

    def reset(self) -> None:
        # GDAL remembers what it read of an address; another signature makes another address
        self.turn += 1
        self.set(signature=f"sig=ABC%2F{self.turn}", token_status=200, lifetime_s=3600, faults={})


def collection(name: str) -> dict[str, Any]:
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "description": name,
        "license": "other",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [],
    }


def items_of(folder: Path, url: str) -> list[dict[str, Any]]:
    """Write files and describe them: two optical dates, one radar date, one optical item far away in time."""
    coarse = BOX.zoom_out(2)
    found = []
    for number, when in enumerate((WHEN, WHEN + timedelta(days=5), WHEN - timedelta(days=400)), start=1):
        assets: dict[str, Path | str] = {}
        for band, plane in zip(S2_BANDS, dn(), strict=True):
            write(folder / f"eo-{number}-{band}.tif", plane[None] + number, cog=True, nodata=0)
            assets[band] = f"{url}/files/eo-{number}-{band}.tif"
        classes = np.full(coarse.shape, 4, np.uint8)
        classes[:, : coarse.shape.x // 2] = 9
        write(folder / f"eo-{number}-SCL.tif", classes, coarse, cog=True)
        assets["SCL"] = f"{url}/files/eo-{number}-SCL.tif"
        facts = {
            "s2:processing_baseline": "05.10",
            "eo:cloud_cover": 5.0 * number,
            "proj:code": "EPSG:32632",
            "proj:shape": list(BOX.shape),
            "proj:transform": list(BOX.affine)[:6],
        }
        # the class raster has pixels of its own, said at the asset
        fields = {"SCL": {"proj:shape": list(coarse.shape), "proj:transform": list(coarse.affine)[:6]}}
        found.append(item(f"eo-{number}", assets, when=when, collection="s2", properties=facts, fields=fields))
    assets = {}
    linear = (10 ** (decibel() / 10)).astype(np.float32)
    for band, plane in zip(("vv", "vh"), linear, strict=True):
        write(folder / f"sar-1-{band}.tif", plane[None], cog=True, nodata=-32768)
        assets[band] = f"{url}/files/sar-1-{band}.tif"
    facts = {"sat:orbit_state": "descending", "sat:relative_orbit": 66}
    found.append(item("sar-1", assets, when=WHEN + timedelta(hours=7), collection="s1", properties=facts))
    documents = [entry.to_dict(include_self_link=False) for entry in found]
    for document in documents:
        document["links"] = []
    return documents


@contextlib.contextmanager
def api(folder: Path, documents: list[dict[str, Any]]) -> Iterator[str]:
    """Serve items with rustac."""
    program = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
    if program is None:
        pytest.skip("rustac is not installed")
    names = []
    for name in sorted({document["collection"] for document in documents}):
        (folder / f"{name}.json").write_text(json.dumps(collection(name)))
        names.append(f"{name}.json")
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": documents}))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process([program, "serve", "-a", f"127.0.0.1:{port}", *names, "items.json"], folder, url):
        yield url


@contextlib.contextmanager
def process(command: list[str], folder: Path, url: str) -> Iterator[None]:
    """Run a server while the block lasts; waits until it answers."""
    running = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(url, timeout=5).ok:
                    break
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve {url}")
            time.sleep(0.05)
        yield
    finally:
        running.terminate()
        running.wait(timeout=10)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    folder = tmp_path_factory.mktemp("provider")
    port = free_port()
    script = Path(__file__).resolve().parents[1] / "provider.py"
    url = f"http://127.0.0.1:{port}"
    provider = process([sys.executable, str(script), str(folder), str(port)], folder, f"{url}/page")
    with provider, api(folder, items_of(folder, url)) as address:
        yield Provider(folder, url, address)


@pytest.fixture
def provider(running: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    running.reset()
    monkeypatch.delenv("TOY_KEY", raising=False)
    return running


def sides(provider: Provider, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    common = {
        "kind": "stac",
        "url": provider.api,
        "sign": "planetary-computer",
        "sas_url": f"{provider.url}/sas",
        "token_env": "TOY_KEY",
        **QUICK,
        **more,
    }
    source = {**common, "collection": "s2", "sensor": "sentinel2-l2a", "bands": list(S2_BANDS), "class_asset": "scl"}
    return source, {**common, "collection": "s1", "sensor": "sentinel1-rtc"}


def toy(folder: Path, provider: Provider, source: dict[str, Any] | None = None, **more: Any) -> Catalog:
    eo, sar = sides(provider)
    facts = {"aoi": AREA, "time": SUMMER, **more}
    return load(catalogue(folder / "toy.yaml", {**eo, **(source or {})}, sar, **facts))


def reason(manifest: Manifest, scene: str) -> str:
    return next(entry.reason for entry in manifest.dropped if entry.id == scene)


class TestSearchAndRead:
    def test_scenes_of_area_and_time_become_local_rasters(self, provider: Provider, tmp_path: Path) -> None:
        manifest = ingest(toy(tmp_path, provider), tmp_path / "scenes")
        assert manifest.ids() == ["eo-1", "eo-2", "sar-1"]
        assert not manifest.dropped
        scene = manifest.get("eo-1")
        got, valid = raster.read(scene.assets["data"].href)
        box = item_box(scene)
        left, top = (round(part) for part in ~BOX.affine * (box.affine.c, box.affine.f))
        assert (left, top) <= (24, 16)
        expected = (dn() + 1)[:, top : top + box.shape.y, left : left + box.shape.x]
        np.testing.assert_array_equal(got, expected)
        assert valid.all()
        assert 64 <= box.shape.y < 96
        assert scene.properties["rsgeo:offset_dn"] == -1000
        assert raster.inspect(scene.assets["data"].href).names == S2_BANDS

    def test_classes_come_along_by_nearest_neighbour_on_the_same_lattice(
        self, provider: Provider, tmp_path: Path
    ) -> None:
        scene = ingest(toy(tmp_path, provider), tmp_path / "scenes").get("eo-1")
        classes, _ = raster.read(scene.assets["scl"].href)
        box = item_box(scene)
        left = round((~BOX.affine * (box.affine.c, box.affine.f))[0])
        assert classes.dtype == np.uint8
        assert classes.shape[1:] == tuple(box.shape)
        assert (classes[0, :, : 64 - left] == 9).all()
        assert (classes[0, :, 64 - left :] == 4).all()

    def test_radar_keeps_its_values_and_orbit(self, provider: Provider, tmp_path: Path) -> None:
        scene = ingest(toy(tmp_path, provider), tmp_path / "scenes").get("sar-1")
        got, _ = raster.read(scene.assets["data"].href)
        assert got.dtype == np.float32
        assert 0 < got.min() < got.max() < 1
        assert scene.properties["rsgeo:bands"] == ["VV", "VH"]
        assert scene.properties["rsgeo:orbit_state"] == "descending"
        assert scene.properties["rsgeo:relative_orbit"] == 66

    def test_a_second_run_reads_no_file_and_changes_none(self, provider: Provider, tmp_path: Path) -> None:
        ingest(toy(tmp_path, provider), tmp_path / "scenes")
        before = {str(path): path.stat().st_mtime_ns for path in (tmp_path / "scenes").rglob("*.*")}
        provider.set()
        ingest(toy(tmp_path, provider), tmp_path / "scenes")
        assert {str(path): path.stat().st_mtime_ns for path in (tmp_path / "scenes").rglob("*.*")} == before
        assert set(provider.seen["asked"]) == {"token"}

    def test_a_query_is_applied_even_where_the_server_does_not_know_it(
        self, provider: Provider, tmp_path: Path
    ) -> None:
        only_clear = {"query": {"eo:cloud_cover": {"lt": 8}}}
        assert ingest(toy(tmp_path, provider, only_clear), tmp_path / "scenes").ids() == ["eo-1", "sar-1"]

    def test_an_area_without_scenes_says_so(self, provider: Provider, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"expected items of collection s2 within its area and time, got none"):
            ingest(toy(tmp_path, provider, aoi={"bbox": [100, 0, 101, 1]}), tmp_path / "scenes")

    def test_an_api_is_not_asked_for_everything(self, provider: Provider, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"expected an area and a time to search for, got no aoi and time"):
            ingest(toy(tmp_path, provider, aoi=None, time=None), tmp_path / "scenes")

    def test_a_static_catalogue_over_http_reads_the_same(self, provider: Provider, tmp_path: Path) -> None:
        documents = json.loads((provider.folder / "items.json").read_text())["features"]
        links = []
        for number, document in enumerate(documents):
            (provider.folder / f"static-{number}.json").write_text(json.dumps(document))
            links.append({"rel": "item", "href": f"./static-{number}.json"})
        root = {"type": "Catalog", "stac_version": "1.0.0", "id": "toy", "description": "toy", "links": links}
        (provider.folder / "static.json").write_text(json.dumps(root))
        manifest = ingest(toy(tmp_path, provider, {"url": f"{provider.url}/static/static.json"}), tmp_path / "scenes")
        assert manifest.ids() == ["eo-1", "eo-2", "sar-1"]


class TestSigning:
    def test_signatures_are_never_stored(self, provider: Provider, tmp_path: Path) -> None:
        ingest(toy(tmp_path, provider), tmp_path / "scenes")
        for path in (tmp_path / "scenes").rglob("*.json"):
            assert "sig=" not in path.read_text()

    def test_signatures_show_neither_in_reasons_nor_in_logs(
        self, provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        provider.set(faults={"eo-1-B04.tif": ["503"] * 200})
        manifest = ingest(toy(tmp_path, provider, {"retries": 0}), tmp_path / "scenes")
        assert "eo-1-B04.tif" in reason(manifest, "eo-1")
        assert "sig=" not in (tmp_path / "scenes" / "scenes.json").read_text()
        assert "503 - http" in caplog.text
        assert "sig=" not in caplog.text

    def test_the_key_is_read_from_the_named_variable_and_sent_to_the_token_service(
        self, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOY_KEY", KEY)
        ingest(toy(tmp_path, provider), tmp_path / "scenes")
        assert set(provider.seen["keys"]) == {KEY}
        for path in (tmp_path / "scenes").rglob("*.*"):
            assert KEY.encode() not in path.read_bytes()

    def test_without_a_key_none_is_sent(self, provider: Provider, tmp_path: Path) -> None:
        ingest(toy(tmp_path, provider), tmp_path / "scenes")
        assert set(provider.seen["keys"]) == {None}

    @pytest.mark.parametrize(
        ("status", "key", "match"),
        [
            (
                401,
                None,
                r"refuses a token for collection s2 \(401 Unauthorized\): .* variable TOY_KEY, got none; set it",
            ),
            (403, KEY, r"\(403 Forbidden\): expected a valid subscription key .*TOY_KEY, got one that is refused"),
        ],
    )
    def test_a_refused_token_names_the_variable(
        self,
        provider: Provider,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        key: str | None,
        match: str,
    ) -> None:
        if key is not None:
            monkeypatch.setenv("TOY_KEY", key)
        provider.set(token_status=status)
        with pytest.raises(SourceError, match=match) as caught:
            ingest(toy(tmp_path, provider), tmp_path / "scenes")
        assert KEY not in str(caught.value)
        assert provider.tokens == 1, "a refusal is not repeated"

    def test_one_token_serves_a_collection_while_it_lasts(self, provider: Provider) -> None:
        signer = Signer(side(provider))
        href = f"{provider.url}/files/x.tif"
        assert signer.sign(href, "s2") == signer.sign(href, "s2") == f"{href}?{provider.signature}"
        assert provider.tokens == 1
        signer.sign(href, "s1")
        assert provider.tokens == 2

    def test_a_token_about_to_end_is_renewed(self, provider: Provider) -> None:
        provider.set(lifetime_s=120)
        signer = Signer(side(provider))
        signer.token("s2")
        signer.token("s2")
        assert provider.tokens == 2

    def test_a_token_goes_to_nobody_else(self, provider: Provider) -> None:
        signer = Signer(side(provider))
        for href in ("https://evil.invalid/x.tif", "https://blob.core.windows.net.evil.invalid/x.tif", "s3://a/b.tif"):
            assert signer.sign(href, "s2") == href
        assert signer.sign("https://a.blob.core.windows.net/x.tif", "s2").endswith(provider.signature)

    def test_an_expired_signature_is_renewed_in_the_middle(self, provider: Provider, tmp_path: Path) -> None:
        made = toy(tmp_path, provider)
        signer = Signer(side(provider))
        provider.set(signature="sig=old")
        assert signer.token("s2") == "sig=old"
        provider.set(signature="sig=new")
        signer.forget()
        assert signer.token("s2") == "sig=new"
        assert len(ingest(made, tmp_path / "scenes")) == 3

    def test_addresses_lose_their_query_in_texts(self) -> None:
        text = "https://a.blob/x.tif?st=1&sig=abc cannot be read ('https://a.blob/y.tif?sig=d')"
        assert unsigned(text) == "https://a.blob/x.tif cannot be read ('https://a.blob/y.tif')"


def side(provider: Provider) -> StacSide:
    return StacSide(**sides(provider)[0])


class TestFaults:
    @pytest.mark.parametrize("fault", ["503", "cut"])
    def test_a_passing_fault_is_survived(self, provider: Provider, tmp_path: Path, fault: str) -> None:
        provider.set(faults={"eo-1-B03.tif": [fault] * 2})
        manifest = ingest(toy(tmp_path, provider), tmp_path / "scenes")
        assert manifest.ids() == ["eo-1", "eo-2", "sar-1"]
        assert provider.seen["faults"] == {"eo-1-B03.tif": []}
        got, _ = raster.read(manifest.get("eo-1").assets["data"].href, bands=[2])
        box = item_box(manifest.get("eo-1"))
        left, top = (round(part) for part in ~BOX.affine * (box.affine.c, box.affine.f))
        expected = dn()[1, top : top + box.shape.y, left : left + box.shape.x] + 1
        np.testing.assert_array_equal(got[0], expected)

    def test_a_lasting_fault_leaves_one_scene_out_and_no_half_file(self, provider: Provider, tmp_path: Path) -> None:
        provider.set(faults={"eo-1-B03.tif": ["503"] * 1000})
        manifest = ingest(toy(tmp_path, provider, {"retries": 1}), tmp_path / "scenes")
        assert manifest.ids() == ["eo-2", "sar-1"]
        assert not (tmp_path / "scenes" / "eo-1" / "data.tif").exists()
        provider.set(faults={})
        assert ingest(toy(tmp_path, provider, {"retries": 1}), tmp_path / "scenes").ids() == ["eo-1", "eo-2", "sar-1"]

    @pytest.mark.parametrize("prefix", ["file://", "/vsizip/", "/vsicurl/"])
    def test_remote_items_may_not_name_files_of_this_machine(
        self, provider: Provider, tmp_path: Path, prefix: str
    ) -> None:
        secret = write(tmp_path / "secret.tif", dn(1))
        assets = {band: f"{prefix}{secret}" for band in S2_BANDS}
        document = item("spy", assets, collection="s2").to_dict(include_self_link=False)
        with served(
            Starlette(
                routes=[Route("/", lambda request: JSONResponse({"type": "FeatureCollection", "features": [document]}))]
            )
        ) as url:
            eo, sar = sides(provider)
            path = catalogue(
                tmp_path / "toy.yaml",
                {**eo, "url": url + "/", "class_asset": None, "sign": "none"},
                sar,
                aoi=AREA,
                time=SUMMER,
                limits={"max_failed_share": 0.9},
            )
            with pytest.raises(SourceError, match="remote items may not name files of this machine"):
                ingest(load(path), tmp_path / "scenes")

    @pytest.mark.parametrize(
        ("place", "match"),
        [
            ("/locked", r"refuses a document \(401 Unauthorized\)"),
            ("/gone", r"expected a document, got HTTP status 404"),
            ("/page", r"expected a document as a JSON object, got something else"),
        ],
    )
    def test_an_answer_that_is_no_document_is_put_in_words(self, provider: Provider, place: str, match: str) -> None:
        with pytest.raises(SourceError, match=match):
            get_json(provider.url + place, retries=0)

    def test_a_server_that_is_not_there_is_put_in_words(self) -> None:
        with pytest.raises(
            SourceError, match=r"does not answer \(ConnectionError\).*check the address and the network"
        ):
            get_json(f"http://127.0.0.1:{free_port()}/", retries=1, pause_s=0.01)

    def test_a_catalogue_that_is_not_there_stops_the_stage_in_words(self, provider: Provider, tmp_path: Path) -> None:
        made = toy(tmp_path, provider, {"url": f"http://127.0.0.1:{free_port()}/", "retries": 0, "sign": "none"})
        with pytest.raises(SourceError, match="does not answer"):
            ingest(made, tmp_path / "scenes")
