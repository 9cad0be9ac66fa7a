from __future__ import annotations

import numpy as np
import pytest

from rsgeo_gan.errors import SourceError
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor, get_sensor


def test_sar_in_db_is_averaged_in_linear_power() -> None:
    sensor = SENSORS["sentinel1-rtc-db"]
    linear = sensor.to_linear(np.array([-10.0, 0.0]))
    np.testing.assert_allclose(linear, [0.1, 1.0], rtol=1e-6)
    assert sensor.linear_to_analysis(np.array([linear.mean()]))[0] == pytest.approx(10 * np.log10(0.55), abs=1e-4)


def test_power_of_zero_becomes_the_floor_and_not_minus_infinity() -> None:
    assert SENSORS["sentinel1-rtc"].linear_to_analysis(np.zeros(1))[0] == pytest.approx(-50)


def test_display_values_are_left_alone() -> None:
    sensor = SENSORS["sentinel1-display"]
    values = np.array([0, 17, 255], dtype=np.uint8)
    np.testing.assert_array_equal(sensor.linear_to_analysis(sensor.to_linear(values)), values)
    assert not sensor.physical


def test_bands_are_found_by_name_or_common_name_in_any_case() -> None:
    sensor = SENSORS["sentinel2-l2a"]
    assert sensor.band_names[sensor.index("nir")] == "B08"
    assert sensor.select(["b08", "B02"]).band_names == ("B08", "B02")
    with pytest.raises(SourceError, match=r"sentinel2-l2a has no band 'B10'.*Correct `bands`"):
        sensor.index("B10")


@pytest.mark.parametrize(
    ("sensor", "values", "message"),
    [
        ("sentinel1-rtc", np.linspace(-25, 0, 50), r"cannot be negative.*look like dB.*sentinel1-rtc-db"),
        ("sentinel1-rtc", np.linspace(21, 900, 50), "look like amplitude DN or display values"),
        ("sentinel1-rtc-db", np.linspace(1, 255, 50), "look like linear power or display values"),
        ("sentinel1-display", np.linspace(-20, 0, 50), "display values, which are not negative"),
        ("sentinel2-l2a", np.linspace(0, 1, 50), "look like reflectance already"),
    ],
)
def test_values_that_contradict_the_unit_are_refused_in_words(sensor: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        SENSORS[sensor].check_units(values, "scene-7.tif")
    assert str(caught.value).startswith("scene-7.tif: ")


@pytest.mark.parametrize(
    ("sensor", "values"),
    [
        ("sentinel1-rtc", np.linspace(0.001, 1, 50)),
        ("sentinel1-rtc-db", np.linspace(-25, 2, 50)),
        ("sentinel2-l2a", np.linspace(900, 4000, 50)),
        ("sentinel2-display", np.arange(256)),
        ("sentinel1-rtc", np.full(3, np.nan)),
    ],
)
def test_plausible_values_pass(sensor: str, values: np.ndarray) -> None:
    SENSORS[sensor].check_units(values, "scene")


def test_an_unknown_sensor_lists_the_known_ones() -> None:
    with pytest.raises(SourceError, match=r"'sentinel9'; known are .*sentinel2-l2a"):
        get_sensor("sentinel9")


def test_an_inline_sensor_needs_its_unit() -> None:
    with pytest.raises(SourceError, match=r"'unit'"):
        get_sensor({"name": "mine", "modality": "sar", "bands": ["HH"]})
    with pytest.raises(SourceError, match="do not fit modality 'sar'"):
        get_sensor({"name": "mine", "modality": "sar", "bands": ["HH"], "unit": "reflectance"})
    mine = get_sensor({"name": "mine", "modality": "sar", "bands": ["HH", "HV"], "unit": "dB"})
    assert (mine.quantity, mine.analysis_unit, mine.band_names) == ("gamma0", "dB", ("HH", "HV"))


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=lambda sensor: sensor.name)
def test_every_sensor_survives_model_units_and_back(sensor: Sensor) -> None:
    low, high = sensor.valid_range
    count = len(sensor.bands)
    scaler = Scaler(sensor.name, sensor.analysis_unit, sensor.band_names, (low,) * count, (high,) * count)
    values = np.linspace(low, high, 4 * 5 * count, dtype=np.float32).reshape(count, 4, 5)
    step = 1e-4 if sensor.physical else 1e-2
    np.testing.assert_allclose(scaler.inverse(scaler.forward(values)), values, atol=step)
    assert Scaler.from_dict(scaler.to_dict()) == scaler


def test_values_outside_the_range_are_clipped_in_the_model_domain() -> None:
    scaler = Scaler("x", "dB", ("VV",), (-25.0,), (0.0,))
    np.testing.assert_allclose(
        scaler.forward(np.array([[[-40.0, -25, -12.5, 0, 9]]])), [[[-1, -1, 0, 1, 1]]], atol=1e-6
    )


def test_a_constant_band_has_no_scaler() -> None:
    with pytest.raises(ValueError, match=r"band VH: low 3\.0 and high 3\.0 span no range"):
        Scaler("x", "dB", ("VV", "VH"), (-25.0, 3.0), (0.0, 3.0))
