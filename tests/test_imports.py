"""The import rules of the house, read from the syntax trees."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from stedm_jax.settings.root import STAGES

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
GROUND = ("common", "settings")
# room -> the rooms of stedm_jax that it may import besides itself; docs/design.md shows the picture
RULES = {
    "common": (),
    "settings": ("common",),
    "models": GROUND,
    "diffusion": GROUND,
    "imaging": GROUND,
    "data": GROUND,
    "evaluation": GROUND,
    "training": GROUND,
    "tasks": (*GROUND, "models", "diffusion", "evaluation", "training.task"),
    "experiment": (
        *GROUND, "models", "diffusion", "tasks", "training", "data",
        "evaluation.synthesis_quality",
    ),
    "methods": (*GROUND, "models", "diffusion", "tasks", "training", "data", "experiment"),
    "stages": (
        *GROUND, "tasks", "training", "data", "evaluation", "experiment", "methods",
        "inference.score_whole",
    ),
    "inference": (
        *GROUND, "tasks", "training", "data", "evaluation", "experiment", "imaging", "models",
    ),
    "studio": (
        *GROUND, "tasks", "training", "data", "evaluation", "experiment", "imaging", "inference",
        "diffusion", "synthesize",
    ),
    "curve": (*GROUND, "diffusion", "training", "data", "evaluation", "experiment"),
    "synthesize": (*GROUND, "tasks", "training", "data", "experiment", "imaging"),
    "doctor": (*GROUND, "models", "diffusion", "tasks", "training", "data", "experiment", "bench"),
    "bench": (*GROUND, "models", "diffusion", "tasks", "training", "data", "experiment"),
    "convert": (*GROUND, "models", "diffusion", "tasks", "training", "data", "experiment"),
    "interface": (
        *GROUND, "tasks", "training", "data", "experiment", "inference", "imaging", "synthesize",
    ),
    "export": (*GROUND, "training", "experiment", "inference", "convert"),
    "evaluate": (*GROUND, "tasks", "training", "data", "evaluation", "experiment"),
    "main.py": (*GROUND, "experiment", "training"),
    "__main__.py": ("main",),
    "ema.py": (*GROUND, "training"),
    "__init__.py": ("common", "interface"),
}  # fmt: skip


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


def check_room(paths: list[Path], allowed: tuple[str, ...]) -> None:
    assert paths
    for path in paths:
        for name in imports(path):
            if name.split(".")[0] in OURS and name not in ("stedm_jax", "stedm_jax.__version__"):
                assert f"{name}.".startswith(tuple(f"{each}." for each in allowed)), (
                    f"{path} imports {name}"
                )


@pytest.mark.parametrize("room", RULES)
def test_rooms_import_only_what_they_may(room):
    place = ROOT / "stedm_jax" / room
    paths = [place] if place.is_file() else sources(f"stedm_jax/{room}")
    check_room(paths, tuple(f"stedm_jax.{each}" for each in (room, *RULES[room])))


def test_every_room_has_a_rule():
    rooms = {path.relative_to(ROOT / "stedm_jax").parts[0] for path in sources("stedm_jax")}
    assert rooms == set(RULES)


def test_configs_and_data_prep_import_only_what_they_may():
    check_room(sources("configs"), ("configs", "stedm_jax.settings"))
    rooms = tuple(f"stedm_jax.{room}" for room in ("imaging", "data", "common"))
    check_room(sources("data_prep"), ("data_prep", *rooms))


def test_no_stage_imports_another():
    for path in sources("stedm_jax/stages"):
        assert not any(name.startswith("stedm_jax.stages") for name in imports(path)), path


def graph() -> dict[str, set[str]]:
    """Our modules -> those of ours that they import, also within functions."""
    names = {}
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return {name: (imports(path) & names.keys()) - {name} for name, path in names.items()}


def test_there_is_no_circle_of_imports():
    try:
        tuple(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))


def test_synthesis_reaches_few_files():
    edges, seen, todo = graph(), set(), ["stedm_jax.stages.synthesis"]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += edges[name]
    assert len(seen) <= 63


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


def test_files_and_functions_stay_readable():
    for path in sources():
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


def test_names_of_files_mean_one_thing():
    """A stage, its settings, its task and its network share a name; so do a data set's command and
    its config, and a network and the table of its published names."""
    shared = {"__init__", "__main__", "diffusion", "pixel_head", *STAGES}
    shared |= {path.stem for path in sources("configs")}
    shared |= {path.stem for path in sources("stedm_jax/convert/tables")}
    names: dict[str, list[str]] = {}
    for path in sources():
        names.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    assert {
        name: each for name, each in names.items() if len(each) > 1 and name not in shared
    } == {}
