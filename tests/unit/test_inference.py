"""Windows, encodings, checkpoints and styles: the parts of generation that need no scene."""

from __future__ import annotations

import pickle
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from rsgeo_gan.errors import CheckpointError, ProductError
from rsgeo_gan.inference import Translator
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.inference.streaming import noise_rows, spans
from rsgeo_gan.provenance import digest_of, fingerprint, noise_seed, product_stem, qml, sides
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor
from tests.generation import EO_SCALER, SAR_SCALER, checkpoint


@pytest.mark.parametrize("length", [1, 63, 64, 65, 511, 1000])
@pytest.mark.parametrize("even", [False, True])
def test_cores_cover_the_axis_once_and_reads_stay_inside(length, even):
    cut = spans(length, 100, 24, 8, even=even)
    assert [span.start for span in cut[1:]] == [span.stop for span in cut[:-1]]
    assert (cut[0].start, cut[-1].stop) == (0, length)
    for span in cut:
        assert 0 <= span.read_start <= span.start < span.stop <= span.read_stop <= length
        assert span.read_start % 8 == 0
        assert span.start - span.read_start in (min(24, span.start), 24)
        assert span.read_stop in (length, span.stop + 24)


def test_even_cores_differ_by_less_than_one_stride_except_the_last():
    widths = [span.stop - span.start for span in spans(1000, 300, 0, 8, even=True)]
    assert widths == [256, 256, 256, 232]


def test_optical_products_are_dn_with_scale_and_never_zero_where_valid():
    encoding = Encoding.of(EO_SCALER, SENSORS["sentinel2-l2a"])
    model = np.array([-1.0, 0.0, 1.0], np.float32).reshape(1, 1, 3).repeat(3, axis=0)
    raw = encoding(model.copy(), np.array([[True, True, True]]))
    assert raw.dtype == np.uint16
    assert raw[0].tolist() == [[1, 1500, 3000]]
    assert raw[2].tolist() == [[1, 2000, 4000]]
    hidden = encoding(model.copy(), np.array([[True, False, True]]))
    assert hidden[:, 0, 1].tolist() == [0, 0, 0]
    assert (encoding.nodata, encoding.scale, encoding.offset) == (0, 1e-4, 0)


def test_sar_products_are_decibels_with_nan():
    encoding = Encoding.of(SAR_SCALER, SENSORS["sentinel1-rtc-db"])
    raw = encoding(np.zeros((2, 1, 2), np.float32), np.array([[True, False]]))
    assert raw.dtype == np.float32
    assert raw[:, 0, 0].tolist() == [-12.5, -18.5]
    assert np.isnan(raw[:, 0, 1]).all()
    assert np.isnan(encoding.nodata)
    assert encoding.unit == "dB"


def test_display_products_keep_zero_as_a_value():
    scaler = Scaler("sentinel1-display", "display", ("VH",), (0.0,), (255.0,))
    encoding = Encoding.of(scaler, SENSORS["sentinel1-display"])
    raw = encoding(np.array([[[-1.0, 1.0]]], np.float32), np.ones((1, 2), bool))
    assert raw.dtype == np.uint8
    assert raw.ravel().tolist() == [0, 255]
    assert encoding.nodata is None


def test_display_values_above_255_get_room():
    encoding = Encoding.of(Scaler("x", "display", ("a",), (0.0,), (4000.0,)))
    assert encoding(np.ones((1, 1, 1), np.float32), np.ones((1, 1), bool)).item() == 4000


def test_float_reflectance_stays_float():
    sensor = Sensor.generic("custom", modality="optical", unit="reflectance", bands=["red"])
    encoding = Encoding.of(Scaler("custom", "reflectance", ("red",), (0.0,), (0.5,)), sensor)
    raw = encoding(np.ones((1, 1, 1), np.float32), np.ones((1, 1), bool))
    assert (raw.dtype, raw.item(), encoding.scale) == (np.float32, 0.5, 1.0)


def test_noise_depends_on_place_and_seed_only():
    whole = noise_rows(256, 40, 30, 2, seed=7)
    assert np.array_equal(noise_rows(256, 20, 30, 2, seed=7), whole[:, :20])
    assert not np.array_equal(noise_rows(0, 40, 30, 2, seed=7), whole)
    assert not np.array_equal(noise_rows(256, 40, 30, 2, seed=8), whole)
    assert abs(float(whole.mean())) < 0.1
    assert float(whole.std()) == pytest.approx(1, abs=0.05)


def test_noise_seeds_of_two_scenes_differ_and_last():
    assert noise_seed("a") == noise_seed("a") != noise_seed("b")


def test_a_checkpoint_gives_both_directions(tmp_path):
    path = checkpoint(tmp_path / "translation.ckpt")
    there = Translator.load(path, "source_to_target")
    back = Translator.load(path, "target_to_source")
    assert there.source_scaler == back.target_scaler == EO_SCALER
    assert there.target_scaler == back.source_scaler == SAR_SCALER
    assert there(torch.zeros(1, 3, 16, 16)).shape == (1, 2, 16, 16)
    assert back(torch.zeros(1, 2, 16, 16)).shape == (1, 3, 16, 16)
    assert there.digest == digest_of(path)
    assert there.halo_px % there.stride == 0
    assert there.halo_px >= there.generator.receptive_radius_px


def test_a_checkpoint_of_one_direction_tells_its_generator_and_refuses_the_other(tmp_path):
    path = checkpoint(tmp_path / "toy.ckpt")
    content = torch.load(path, weights_only=True)
    for part, found in (("state_dict", "generator_back."), ("hyper_parameters", "generator_back")):
        kept = {key: value for key, value in content[part].items() if key.startswith(found)}
        content[part] = {key.replace("_back", ""): value for key, value in kept.items()}
    content["rsgeo_gan"]["generators"] = {"target_to_source": "generator"}
    torch.save(content, path)
    assert Translator.load(path, "target_to_source").generator.in_channels == 2
    with pytest.raises(CheckpointError, match="source_to_target"):
        Translator.load(path, "source_to_target")


def test_a_published_checkpoint_gives_its_recipe(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    named = path.rename(tmp_path / f"translation-{digest_of(path)[:12]}.ckpt")
    assert Translator.load(named, "source_to_target").facts.recipe == "translation"


def test_untrained_weights_follow_the_seed_and_not_the_checkpoint(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    image = torch.linspace(-1, 1, 3 * 24 * 24).reshape(1, 3, 24, 24)
    trained = Translator.load(path, "source_to_target")(image)
    first, same, other = (Translator.load(path, "source_to_target", untrained_seed=seed)(image) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, trained)


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Translator.load(path, "source_to_target")
    assert torch.equal(torch.rand(1), expected)


def _facts(**changes):
    facts = {"source": EO_SCALER.to_dict(), "target": SAR_SCALER.to_dict(), "gsd": 10.0, "radius_px": 3}
    return {"format": 1, "task": "t", "version": "0.1.0", "facts": facts | changes}


def _spec(class_path, **init_args):
    spec = {"class_path": class_path, "init_args": init_args}
    return {"hyper_parameters": {"generator": spec, "generator_back": spec}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rsgeo_gan": None}, "not a checkpoint of rsgeo_gan.*missing rsgeo_gan.*rsgeo-gan fit"),
        ({"rsgeo_gan": {"format": 9, "version": "7.0"}}, "format 9, this version reads 1.*7.0"),
        ({"rsgeo_gan": {"format": 1, "facts": {}}}, "lacks facts.*scalers of source and target"),
        ({"rsgeo_gan": _facts(source=None)}, "lacks facts"),
        ({"hyper_parameters": {}}, "does not say how the network is built.*recipe"),
        (_spec("os.system", command="true"), "os.system, outside the trusted packages rsgeo_gan.models"),
        (_spec("rsgeo_gan.models.init_normal"), "is not a network"),
        (_spec("rsgeo_gan.models.NoSuchNet"), "cannot be imported.*train again"),
        (_spec("rsgeo_gan.models.ResNetGenerator", legs=4), "does not accept the stored arguments"),
        (_spec("rsgeo_gan.models.ResNetGenerator", in_channels=-1, out_channels=1), "does not accept the stored"),
        (
            {"hyper_parameters": {"generator": {"class_path": "rsgeo_gan.models.UNetGenerator", "init_args": [1]}}},
            "names",
        ),
        (_spec("rsgeo_gan.models.ResNetGenerator", in_channels=3, out_channels=7), "weights of generator do not fit"),
        (_spec("rsgeo_gan.models.PatchDiscriminator", in_channels=3), "weights of generator do not fit"),
    ],
)
def test_a_foreign_checkpoint_is_refused_with_what_to_do(tmp_path, changes, message):
    path = checkpoint(tmp_path / "odd.ckpt", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        Translator.load(path, "source_to_target")
    assert "odd.ckpt" in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(CheckpointError, match="damaged, truncated or not a checkpoint"):
        Translator.load(path, "source_to_target")


class _Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a checkpoint was run')",))


def test_code_in_a_pickle_is_not_run(tmp_path):
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps(_Trap()))
    zipped = tmp_path / "zipped.ckpt"
    torch.save({"state_dict": _Trap()}, zipped)
    for path in (plain, zipped):
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            Translator.load(path, "source_to_target")


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt: no such checkpoint"):
        Translator.load(tmp_path / "nothing.ckpt", "source_to_target")


def test_a_trusted_package_must_be_named(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt", **_spec("torch.nn.Identity"))
    with pytest.raises(CheckpointError, match="outside the trusted packages"):
        Translator.load(path, "source_to_target")
    with pytest.raises(CheckpointError, match="Identity states no receptive_radius_px"):
        Translator.load(path, "source_to_target", trusted=("torch.nn",), untrained_seed=0)


def test_directions_have_sides():
    assert sides("source_to_target") == ("source", "target")
    assert sides("target_to_source") == ("target", "source")
    with pytest.raises(ProductError, match="unknown direction 'backwards'"):
        sides("backwards")


def test_a_fingerprint_follows_the_facts_and_not_their_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_product_is_named_by_scene_direction_and_checkpoint():
    assert product_stem("S2A_1", "source_to_target", "0123456789abcdef") == "S2A_1_source-to-target_0123456789ab"


def test_sar_style_is_grey_over_the_range_of_the_generator():
    renderer = ET.fromstring(qml(SAR_SCALER)).find(".//rasterrenderer")
    assert (renderer.get("type"), renderer.get("grayBand")) == ("singlebandgray", "1")
    assert (renderer.findtext(".//minValue"), renderer.findtext(".//maxValue")) == ("-25", "0")


def test_optical_style_is_true_colour_where_the_bands_allow():
    renderer = ET.fromstring(qml(EO_SCALER)).find(".//rasterrenderer")
    assert [renderer.get(f"{colour}Band") for colour in ("red", "green", "blue")] == ["3", "2", "1"]
    assert renderer.findtext("redContrastEnhancement/maxValue") == "0.4"
    false_colour = Scaler("x", "reflectance", ("a", "b", "c", "d"), (0,) * 4, (1,) * 4)
    renderer = ET.fromstring(qml(false_colour)).find(".//rasterrenderer")
    assert [renderer.get(f"{colour}Band") for colour in ("red", "green", "blue")] == ["1", "2", "3"]
