"""The notebooks run from top to bottom on tiny data, and are committed without outputs."""

import json
from pathlib import Path

import pytest

from tests.test_pages import anchors, links
from tests.test_whole_run import ROOT, environment

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
MAKES = {
    "slides_to_report": (3, "runs/notebook/run/report/index.html"),
    "paint_style_generate": (5, "runs/tiny/generator/stedm/done.json"),
}
"""Notebook -> how many pictures it shows, and a file that it leaves."""


def test_each_notebook_is_known():
    assert {path.stem for path in NOTEBOOKS} == set(MAKES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path: Path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert [cell["source"] for cell in code if cell["outputs"] or cell["execution_count"]] == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}  # nothing of an editor


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_the_text_lead_somewhere(path: Path):
    for cell in json.loads(path.read_text())["cells"]:
        for link in links("".join(cell["source"])) if cell["cell_type"] == "markdown" else ():
            file, _, anchor = link.partition("#")
            target = path.parent / file
            assert target.exists() and (not anchor or anchor in anchors(target)), link


@pytest.mark.notebook
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=1000, kernel_name="python3", resources=where)
    client.execute(env=environment())  # raises the error of a cell
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    pictures, file = MAKES[path.stem]
    assert sum("image/png" in each.get("data", ()) for each in outputs) == pictures
    assert (tmp_path / file).is_file()
