from pathlib import Path

import pytest

from tests.house_picture import arrows, imported, levels, svg
from tests.test_imports import RULES

PICTURE = Path(__file__).parent.parent / "docs/house.svg"


def test_the_picture_is_that_of_the_rules():
    assert PICTURE.read_text() == svg(RULES), "python -m tests.house_picture > docs/house.svg"


def test_every_import_follows_from_arrows_that_lead_down():
    drawn, height = arrows(RULES), dict[str, int]()
    for level, rooms in enumerate(levels(RULES)):
        height |= dict.fromkeys(rooms, level)
    assert all(height[room] > height[other] for room, other in drawn)
    for room, others in imported(RULES).items():
        reached, found = {room}, set[str]()
        while reached:
            reached = {low for high, low in drawn if high in reached}
            found |= reached
        assert others <= found


@pytest.mark.parametrize("room", ["a", "b"])
def test_an_arrow_that_follows_from_others_is_left_out(room):
    rules = {"common": (), "settings": (), "a": ("b", "c.part"), "b": ("c",), "c": ("common",)}
    assert {low for high, low in arrows(rules) if high == room} == {{"a": "b", "b": "c"}[room]}
