"""The pages name only files, links and messages that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(text: str) -> list[str]:
    """Where links of a text lead to."""
    return re.findall(r"\]\(([^)]+)\)", text)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def texts() -> str:
    """All texts in the product, what is filled in shown as "..."."""
    found = []
    for path in (ROOT / "stedm_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    str(part.value) if isinstance(part, ast.Constant) else "..."
                    for part in node.values
                )
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    if page.name == "CHANGELOG.md":
        return  # it names what was
    rooms = "configs|data_prep|stedm_jax|launch|tests"
    named = re.findall(rf"`((?:{rooms})/[\w/]+\.\w+)", page.read_text())
    there = [name for name in named if "NAME" not in name and name != "configs/compared.py"]
    assert [name for name in there if not (ROOT / name).exists()] == []


def test_messages_of_troubleshooting_are_messages():
    known = texts() + "No space left on device, RESOURCE_EXHAUSTED"
    table = (ROOT / "docs/troubleshooting.md").read_text()
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    quoted = [text for cell in cells for text in re.findall("`([^`]+)`", cell)]
    assert len(quoted) > 15
    parts = {text: [part.strip() for part in text.split("...")] for text in quoted}
    assert [text for text in quoted if not all(part in known for part in parts[text])] == []


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 100
