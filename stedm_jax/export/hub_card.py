"""The card of an exported run."""

import json
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from stedm_jax.convert.model_card import model_card
from stedm_jax.convert.run_card import data_of_run, read_if_there
from stedm_jax.experiment.context import Context

_USE = """```python
from stedm_jax import load_run

run = load_run("DIR")  # this folder
```
"""


def card_of_run(
    context: Context,
    cells: Sequence[str],
    about: Mapping[str, Any],
    digests: Mapping[str, str],
    license: str,
    hub: bool,
) -> str:
    """README.md in Markdown; for a hub with its metadata in YAML at the top.

    Args:
      context: of the run.
      cells: whose weights are there.
      about: segmenters.json.
      digests: file -> SHA-256.
      license: of the weights.
      hub: whether it is for a hub.
    """
    settings, workdir = context.settings, context.workdir.path
    card = data_of_run(workdir, settings)
    arms = read_if_there(workdir / "report" / "summary.json").get("arms", {})
    here = {cell.split("/")[1].split("@")[0] for cell in cells if cell.startswith("segmentation/")}
    card |= {
        "title": settings.title or settings.name,
        "use": _USE,
        "licence": license,
        "mpp": about["mpp"],
        "tile": about["tile"],
        "classes": about["classes"],
        "metrics_of": "the arms: test patients, over all seeds",
        "metrics": {
            f"{arm}: {name}": value
            for arm, values in arms.items()
            for name, value in values.items()
            if arm in here and isinstance(value, Number)
        },
        "networks": ", ".join(cells),
    }
    text = model_card(card, digests, f"a run of stedm_jax ({', '.join(cells)})")
    return f"{metadata(cells, license)}\n{text}" if hub else text


def metadata(cells: Sequence[str], license: str) -> str:
    """What a model hub reads: YAML between lines of dashes."""
    stages = {cell.split("/")[0].split("@")[0] for cell in cells}
    task = "image-segmentation" if stages & {"segmentation", "judge"} else "image-to-image"
    values = {
        "license": license,
        "library_name": "stedm_jax",
        "pipeline_tag": task,
        "tags": ["histopathology", "medical", "jax", "flax", *sorted(stages)],
    }
    # A string in JSON is one in YAML.
    lines = [f"{name}: {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])
