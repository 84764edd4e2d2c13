"""The picture of the house in docs/design.md, drawn from the rules that test_imports.py asserts:

python -m tests.house_picture > docs/house.svg

A box is a room, higher than all that it may import. An arrow leads from a room to one that it may
import; arrows to what the other end of another arrow may import too are left out, and so are those
to common and settings, which all rooms may import.
"""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from html import escape

Rules = Mapping[str, Sequence[str]]
GROUND = ("common", "settings")
WIDE, HIGH, GAP, RISE = 100, 30, 14, 88
"""A box, and the space between two beside and above each other, in px."""


def imported(rules: Rules) -> dict[str, set[str]]:
    """Room -> the rooms that it may import, whole or in part; common and settings left out."""
    names = {room.removesuffix(".py"): room for room in rules}
    return {
        room: {names[each.split(".")[0]] for each in allowed} - {*GROUND, room}
        for room, allowed in rules.items()
        if room not in GROUND
    }


def arrows(rules: Rules) -> set[tuple[str, str]]:
    """The pairs (room, room that it may import) that do not follow from others."""
    direct = imported(rules)
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(direct).static_order():
        below[room] = direct[room].union(*(below[each] for each in direct[room]))
    return {
        (room, each)
        for room, found in direct.items()
        for each in found
        if not any(each in below[other] for other in found)
    }


def levels(rules: Rules) -> list[list[str]]:
    """The rooms by height, the lowest first; neighbors import nothing of each other."""
    direct, height = imported(rules), dict[str, int]()
    for room in TopologicalSorter(direct).static_order():
        height[room] = 1 + max((height[each] for each in direct[room]), default=-1)
    return [[r for r in direct if height[r] == level] for level in range(max(height.values()) + 1)]


def places(rules: Rules) -> tuple[dict[str, tuple[float, float]], float, float]:
    """The middle of each room, and width and height of the picture. Rooms stand above the mean of
    what they import, as far as there is room."""
    rows, drawn = levels(rules), arrows(rules)
    width = max(map(len, rows)) * (WIDE + GAP) + GAP
    middle: dict[str, tuple[float, float]] = {}
    for level, rooms in enumerate(rows):
        wanted = {}
        for number, room in enumerate(rooms):
            under = [middle[low][0] for high, low in drawn if high == room]
            spread = (number + 0.5) * width / len(rooms)
            wanted[room] = sum(under) / len(under) if under else spread
        ordered = sorted(rooms, key=lambda room: (wanted[room], room))
        step = width / len(ordered)
        y = (len(rows) - 1 - level) * RISE + HIGH
        for number, room in enumerate(ordered):
            middle[room] = ((number + 0.5) * step, y)
    return middle, width, len(rows) * RISE + HIGH


def svg(rules: Rules) -> str:
    """The picture, which needs nothing else."""
    middle, width, high = places(rules)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {high + HIGH:g}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width:g}" height="{high + HIGH:g}" fill="#fff"/>',
    ]
    for room, other in sorted(arrows(rules)):
        (x, y), (x2, y2) = middle[room], middle[other]
        lines.append(
            f'<line x1="{x:.1f}" y1="{y + HIGH / 2:.1f}" x2="{x2:.1f}" y2="{y2 - HIGH / 2:.1f}" '
            'stroke="#99a" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in sorted(middle.items()):
        lines += _box(room, x - WIDE / 2, y - HIGH / 2, WIDE, "#eef3fb")
    lines += _box("common, settings: for all rooms", GAP, high - HIGH, width - 2 * GAP, "#f3efe4")
    return "\n".join([*lines, "</svg>", ""])


def _box(text: str, x: float, y: float, width: float, color: str) -> list[str]:
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:g}" height="{HIGH}" rx="5" '
        f'fill="{color}" stroke="#557"/>',
        f'<text x="{x + width / 2:.1f}" y="{y + HIGH / 2 + 5:.1f}" text-anchor="middle">'
        f"{escape(text)}</text>",
    ]


if __name__ == "__main__":
    from tests.test_imports import RULES

    print(svg(RULES), end="")
