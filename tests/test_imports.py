"""The import rules of the house, read from the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("stedm_jax", "data_prep", "configs")
DATA_NO_JAX = (
    "schema",
    "records",
    "record_file",
    "tfds",
    "classes",
    "styles",
    "augment",
    "index",
    "tile_parts",
    "codecs",
    "arrays",
    "remote",
    "sampling",
    "whole",
    "stain",
)
# room -> our modules it may import, by prefix
RULES = {
    "stedm_jax/models": (
        "stedm_jax.settings",
        "stedm_jax.models",
        "stedm_jax.common",
    ),
    "stedm_jax/convert": (
        "stedm_jax.settings",
        "stedm_jax.convert",
        "stedm_jax.models",
        "stedm_jax.training",
        "stedm_jax.common",
    ),
    "stedm_jax/diffusion": ("stedm_jax.settings", "stedm_jax.diffusion", "stedm_jax.common"),
    "stedm_jax/evaluation": ("stedm_jax.settings", "stedm_jax.evaluation", "stedm_jax.common"),
    "stedm_jax/training": (
        "stedm_jax.settings",
        "stedm_jax.training",
        "stedm_jax.common",
    ),
    "stedm_jax/data": ("stedm_jax.settings", "stedm_jax.data", "stedm_jax.common"),
    "stedm_jax/tasks": (
        "stedm_jax.settings",
        "stedm_jax.tasks",
        "stedm_jax.models",
        "stedm_jax.diffusion",
        "stedm_jax.evaluation",
        "stedm_jax.training.task",
        "stedm_jax.common",
    ),
    "configs": ("configs", "stedm_jax.settings"),
    "stedm_jax/settings": ("stedm_jax.settings", "stedm_jax.common.errors"),
    "data_prep": ("data_prep", "stedm_jax.data", "stedm_jax.imaging", "stedm_jax.common"),
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(room: str = "") -> list[Path]:
    rooms = [room] if room else list(OURS)
    return [path for each in rooms for path in sorted((ROOT / each).rglob("*.py"))]


@pytest.mark.parametrize("room", RULES)
def test_rooms_import_only_what_they_may(room):
    assert sources(room)
    for path in sources(room):
        for name in imports(path):
            if name.split(".")[0] in OURS and name not in ("stedm_jax", "stedm_jax.__version__"):
                assert name.startswith(RULES[room]), f"{path} imports {name}"


def test_nothing_imports_data_prep():
    for path in sources("stedm_jax") + sources("configs"):
        assert not any(name.startswith("data_prep") for name in imports(path)), path


def test_schema_and_splits_import_no_jax():
    for name in DATA_NO_JAX:
        used = {each.split(".")[0] for each in imports(ROOT / "stedm_jax/data" / f"{name}.py")}
        assert not used & {"jax", "flax", "optax"}, name


def test_configs_are_data():
    for path in sources("configs"):
        assert {name.split(".")[0] for name in imports(path)} <= {
            "ml_collections",
            "configs",
            "stedm_jax",
            "typing",
        }, path


def test_neither_torch_nor_tensorflow_nor_pickle_at_run_time():
    for path in sources():
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & {"torch", "tensorflow", "pickle", "requests"}, path


def test_files_stay_readable():
    for path in sources():
        assert len(path.read_text().splitlines()) <= 400, path
