"""The picture shows every model where its numbers are."""

import re
from xml.etree import ElementTree

import pytest

from llmrecipe.engines.evaluation.frontier import Point, draw, points

SVG = "{http://www.w3.org/2000/svg}"

COMPARED = {
    "base": {"size_mb": 400.0},
    "w8": {"size_mb": 200.0, "recovery_percent": 99.0, "recovery_low_percent": 98.0, "recovery_high_percent": 99.5},
    "w4": {"size_mb": 100.0, "recovery_percent": 90.0},
    "w4-worse": {"size_mb": 110.0, "recovery_percent": 80.0},
    "measured-otherwise": {"size_mb": 100.0},
}


def circles(svg: str) -> dict[str, tuple[float, float, str]]:
    """By model, where its point is, and its colour."""
    root = ElementTree.fromstring(svg)
    names = [each.text for each in root.iter(f"{SVG}text")]
    found = [(float(each.get("cx")), float(each.get("cy")), each.get("fill")) for each in root.iter(f"{SVG}circle")]
    return dict(zip([name for name in names if name in COMPARED], found, strict=True))


def test_models_with_a_recovery_are_where_size_and_recovery_are():
    found = circles(draw(points(COMPARED, "base"), "mine"))
    assert set(found) == {"base", "w8", "w4", "w4-worse"}
    (base_x, base_y, _), (eight_x, eight_y, _), (four_x, four_y, _) = (found[name] for name in ("base", "w8", "w4"))
    # To scale: 300 MB and 10 % against 100 MB and 1 %.
    assert (base_x - four_x) / (eight_x - four_x) == pytest.approx(3.0, rel=0.01)
    assert (four_y - base_y) / (eight_y - base_y) == pytest.approx(10.0, rel=0.02)


def test_a_model_that_another_is_smaller_and_better_than_is_grey():
    found = {name: colour for name, (_, _, colour) in circles(draw(points(COMPARED, "base"), "mine")).items()}
    assert len({found[name] for name in ("base", "w8", "w4")}) == 1
    assert found["w4-worse"] != found["w4"]


def test_an_interval_is_a_line_between_its_ends():
    svg = draw(points(COMPARED, "base"), "mine")
    ((low, high),) = [tuple(map(float, each)) for each in re.findall(r'd="M[\d.]+ ([\d.]+)V([\d.]+)" stroke="#1', svg)]
    up = {name: y for name, (_, y, _) in circles(svg).items()}
    # 98 to 99.5 %, where a percent is as far as w8 is from base.
    assert (low - high) / (up["w8"] - up["base"]) == pytest.approx(1.5, rel=0.05)
    assert high < up["w8"] < low


@pytest.mark.parametrize("models", [1, 2])
def test_models_of_one_size_and_quality_have_a_picture_too(models):
    same = [Point(name=f"<m{index}>", size=1.0, recovery=100.0, interval=None) for index in range(models)]
    root = ElementTree.fromstring(draw(same, "one & only"))
    shown = {each.text for each in root.iter(f"{SVG}text")}
    assert {"<m0>", "one & only"} <= shown
    assert len(list(root.iter(f"{SVG}circle"))) == models
