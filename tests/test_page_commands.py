"""What is taken from a page is what a reader copies."""

import subprocess

import pytest

from tests.page_commands import blocks, missing_line, promised, python_commands, shell_blocks

PAGE = """Text, and `inline`.

```sh
# A comment.
python -m one --a=1 \\
    --b="two words"
cat > mine.py <<'END'
text = "# no comment"
END
```

```text
3 tiles
```

    pip install . && python -m two > out

1. A list

   ```
   python -m three | tee log
   ```

```python
python = 1
```
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_blocks_with_language_and_line(page):
    found = blocks(page)
    assert [(each.language, each.line) for each in found] == [
        ("sh", 4),
        ("text", 13),
        ("", 16),
        ("", 21),
        ("python", 25),
    ]
    lines = PAGE.splitlines()
    assert all(each.text.splitlines()[0] == lines[each.line - 1].strip() for each in found)


def test_commands_are_those_that_a_shell_runs(page, tmp_path):
    first = shell_blocks(page)[0]
    command, document = first.commands
    assert command == 'python -m one --a=1 --b="two words"'
    subprocess.run(["bash", "-c", document], cwd=tmp_path, check=True)
    assert (tmp_path / "mine.py").read_text() == 'text = "# no comment"\n'


def test_programs_of_python(page):
    assert [(block.line, words) for block, words in python_commands(page)] == [
        (4, ["one", "--a=1", "--b=two words"]),
        (16, ["two"]),
        (21, ["three"]),
    ]


def test_promised_output_belongs_to_the_commands_before(page):
    assert [text for _, text in promised(page)] == ["3 tiles\n", "", ""]


@pytest.mark.parametrize(
    ("promise", "missing"),
    [
        ("3 tiles of one (0.5 s)\nall is done", None),
        ("40 tiles   of ...\n...\nall is done", None),
        ("all is done\n3 tiles of one (0.5 s)", "3 tiles of one (0.5 s)"),
        ("3 tiles of", "3 tiles of"),
        ("many tiles of one (0.5 s)", "many tiles of one (0.5 s)"),
    ],
)
def test_promises(promise, missing):
    output = "began\n  12 tiles  of one (7:31 s)\nmore\nall is done\n"
    assert missing_line(promise, output) == missing
