from dataclasses import replace

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.cells import Graph
from stedm_jax.settings.root import STAGES
from tests.experiment.settings import base

ARMS = {
    "labelled": {"real": 1.0, "stain_jitter": 0.0},
    "a": {"real": 0.5, "stain_jitter": 0.0, "set": "one"},
    "b": {"real": 0.5, "stain_jitter": 0.0, "set": "two"},
}
SETS = {
    "one": {"generator": "stedm"},
    "two": {"generator": "plain", "changes": (("steps", 20),)},
}
GENERATORS = {"stedm": {}, "plain": {"changes": (("style.source", "none"),)}}
SEVERAL = {
    "diffusion__generators": GENERATORS,
    "synthesis__sets": SETS,
    "segmentation__arms": ARMS,
    "segmentation__seeds": (0, 1),
}


def test_a_set_that_another_generator_guides_needs_it():
    other = next(name for name in GENERATORS if name != SETS["one"]["generator"])
    weaker = (("guidance.on", "weaker"), ("guidance.weights", f"generator:{other}"))
    guided = SETS | {"one": SETS["one"] | {"changes": weaker}}
    graph = Graph(base(**SEVERAL | {"synthesis__sets": guided}))
    assert f"generator/{other}" in graph["synthesis/one"].needs


def several(**changes):
    return base(**SEVERAL, **changes)


def changed(before, after):
    """The cells whose stamps differ between two settings."""
    old, new = (Graph(each).stamps("tiles") for each in (before, after))
    return {name for name in new if old.get(name) != new[name]} - {"tiles"}


def test_every_stage_of_the_default_has_its_cells_in_order():
    graph = Graph(base())
    assert graph.goals == [
        "data",
        "autoencoder",
        "latents",
        "judge",
        "generator/stedm",
        "synthesis/synthetic",
        "quality/synthetic",
        *(f"segmentation/{arm}/{seed}" for seed in (0, 1, 2) for arm in base().arms),
        "report",
    ]


def test_what_a_cell_needs_stands_before_it():
    graph = Graph(several(stages=STAGES))
    seen = set()
    for name in graph:
        assert {*graph[name].needs, *graph[name].after} <= seen
        seen.add(name)


def test_an_arm_needs_its_own_set_and_a_set_its_own_generator():
    graph = Graph(several())
    assert graph.before("segmentation/a/0") == {
        "data", "autoencoder", "latents", "generator/stedm", "synthesis/one",
    }  # fmt: skip
    assert "generator/plain" in graph.before("segmentation/b/1")
    assert graph.before("segmentation/labelled/0") == {"data"}


def test_an_arm_of_several_sets_needs_all_of_them_and_reads_their_weights():
    def graph(weight):
        arm = {"real": 0.5, "stain_jitter": 0.0, "sets": (("one", weight), ("two", 1.0))}
        return Graph(base(**SEVERAL | {"segmentation__arms": {"a": arm}}))

    assert graph(1.0)["segmentation/a/0"].needs == ("data", "synthesis/one", "synthesis/two")
    one, other = graph(1.0).stamps("t"), graph(3.0).stamps("t")
    assert one["segmentation/a/0"] != other["segmentation/a/0"]


def test_an_arm_that_rejects_pixels_needs_the_judge():
    arms = {"a": ARMS["a"] | {"reject": 1.25}, "b": ARMS["b"]}
    graph = Graph(base(**SEVERAL | {"segmentation__arms": arms}))
    assert graph["segmentation/a/0"].needs == ("data", "synthesis/one", "judge")
    assert graph["segmentation/b/0"].needs == ("data", "synthesis/two")


AUTO = {"real": 1.0, "stain_jitter": 0.0, "choose": ("labelled", "a")}


def test_an_arm_that_chooses_needs_all_seeds_of_the_others_and_is_made_anew_unasked():
    arms = ARMS | {"auto": AUTO}
    before, after = (
        Graph(base(**SEVERAL | {"segmentation__arms": arms, "segmentation__seeds": seeds}))
        for seeds in ((0, 1), (0, 1, 2))
    )
    wanted = [f"segmentation/{arm}/{seed}" for arm in ("labelled", "a") for seed in (0, 1)]
    assert before["segmentation/auto/1"].needs == tuple(wanted)
    changed = before.stamps("t")["segmentation/auto/1"] != after.stamps("t")["segmentation/auto/1"]
    assert changed and before["segmentation/auto/1"].remade
    assert not before["segmentation/a/1"].remade
    names = list(before)
    assert all(names.index(need) < names.index("segmentation/auto/0") for need in wanted)


def test_an_arm_in_one_stain_needs_the_same_seed_of_the_arm_that_it_scores():
    one_stain = {"real": 1.0, "stain_jitter": 0.0, "choose": ("a",), "normalize": "reinhard"}
    graph = Graph(base(**SEVERAL | {"segmentation__arms": ARMS | {"stain": one_stain}}))
    assert graph["segmentation/stain/1"].needs == ("data", "segmentation/a/1")
    assert graph["segmentation/stain/1"].remade


@pytest.mark.parametrize("over", ["point", "grid"])
def test_an_arm_that_chooses_on_a_grid(over):
    arms = ARMS | {"auto": AUTO | {"choose_over": over}}
    draws = {name: {"train": (name,), "val": ("v",)} for name in ("p", "q")}
    changes = {"segmentation__arms": arms, "segmentation__seeds": (0,)}
    changes |= {"grid__draws": draws, "grid__generator_seeds": (0, 1)}
    graph = Graph(base(**SEVERAL | changes))
    own = ("segmentation/labelled@q/0", "segmentation/a@q.1/0")
    points = ("p.0", "p.1", "q.0", "q.1")
    every = {f"segmentation/a@{point}/0" for point in points}
    every |= {f"segmentation/labelled@{draw}/0" for draw in ("p", "q")}
    needs = graph["segmentation/auto@q.1/0"].needs
    assert needs == own if over == "point" else set(needs) == every
    seen = set()
    for name in graph:
        assert {*graph[name].needs, *graph[name].after} <= seen
        seen.add(name)


def test_an_arm_with_labels_of_its_own_is_made_anew_and_no_other():
    arms = ARMS | {"labelled": ARMS["labelled"] | {"splits": (("train", 1.0), ("style", 1.0))}}
    found = changed(several(), base(**SEVERAL | {"segmentation__arms": arms}))
    assert found == {"segmentation/labelled/0", "segmentation/labelled/1", "report"}


def test_changing_a_set_invalidates_that_set_and_the_arms_that_read_it():
    sets = SETS | {"two": SETS["two"] | {"changes": (("steps", 30),)}}
    after = base(**SEVERAL | {"synthesis__sets": sets})
    assert changed(several(), after) == {
        "synthesis/two", "quality/two", "segmentation/b/0", "segmentation/b/1", "report",
    }  # fmt: skip


def test_weights_of_synthesis_do_not_touch_the_arm_on_real_tiles_nor_the_judge():
    found = changed(several(), several(synthesis__weights="params"))
    assert "segmentation/labelled/0" not in found and "judge" not in found
    assert {"synthesis/one", "synthesis/two", "segmentation/a/0"} <= found
    assert not {"generator/stedm", "autoencoder", "latents"} & found


def test_a_new_arm_a_new_seed_and_a_new_set_add_cells_and_change_the_report_alone():
    arms = ARMS | {"jitter": {"real": 1.0, "stain_jitter": 0.2}}
    after = base(**SEVERAL | {"segmentation__arms": arms, "segmentation__seeds": (0, 1, 2)})
    new = set(Graph(after)) - set(Graph(several()))
    assert changed(several(), after) == new | {"report"}


def test_a_generator_of_its_own_invalidates_what_is_made_with_it():
    generators = GENERATORS | {"plain": {"changes": (("loss", "l2"),)}}
    after = base(**SEVERAL | {"diffusion__generators": generators})
    found = changed(several(), after)
    assert {"generator/plain", "synthesis/two", "segmentation/b/0"} <= found
    assert not {"generator/stedm", "synthesis/one", "segmentation/a/0", "judge"} & found


@pytest.mark.parametrize(
    ("key", "value", "first"),
    [
        ("seed", 1, {"autoencoder", "judge", "segmentation/labelled/0"}),
        ("autoencoder__kl_weight", 0.5, {"autoencoder"}),
        ("latents__scale", 2.0, {"latents"}),
        ("diffusion__loss", "l2", {"generator/stedm", "generator/plain"}),
        ("segmentation__border", 4, {"judge", "segmentation/labelled/1"}),
        ("segmentation__features__seed", 7, set()),
        ("report__intro", "x", {"report"}),
        ("data__shift", 8, {"autoencoder", "judge", "generator/stedm"}),
    ],
)
def test_a_key_invalidates_the_cells_that_read_it(key, value, first):
    found = changed(several(), several(**{key: value}))
    assert first <= found and ("data" in found) == key.startswith("data__tiles")
    if first == {"report"}:
        assert found == first


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("diffusion__train__log_every", 1),
        ("diffusion__watch__layouts", 1),
        ("mesh__fsdp", 2),
        ("data__threads", 1),
        ("compile_cache", False),
    ],
)
def test_keys_that_change_no_result_invalidate_nothing(key, value):
    assert not changed(several(), several(**{key: value}))


def test_other_tiles_invalidate_all_but_the_record_of_the_data():
    graph = Graph(several())
    one, other = graph.stamps("one"), graph.stamps("other")
    same = {name for name in graph if one[name] == other[name]}
    assert same == {"data"}


def test_the_judge_comes_first_where_a_generator_is_watched_by_it():
    watched = base(diffusion__watch__judge=True, diffusion__train__visual_every=10)
    assert Graph(watched)["generator/stedm"].after == ("judge",)
    assert not changed(base(), watched)


def test_a_generator_that_learns_from_the_judge_needs_it():
    taught = base(diffusion__judge__layouts=0.5)
    assert "judge" in Graph(taught)["generator/stedm"].needs
    assert "judge" not in Graph(base())["generator/stedm"].needs


def test_select_takes_stages_and_cells_and_refuses_others():
    graph = Graph(several())
    assert graph.select(["synthesis", "segmentation/b/1"]) == [
        "synthesis/one",
        "synthesis/two",
        "segmentation/b/1",
    ]
    with pytest.raises(UserError, match="--stage names synthesis/three; valid are plan"):
        graph.select(["synthesis/three"])


def test_stages_choose_goals_and_change_no_stamp():
    settings = several()
    few = replace(settings, stages=("data", "segmentation", "report"))
    graph, less = Graph(settings), Graph(few)
    assert set(less.goals) < set(graph.goals) and "judge" not in less.goals
    assert less["segmentation/a/0"].needs == ("data", "synthesis/one")
    one, other = graph.stamps("t"), less.stamps("t")
    assert {name for name in one if one[name] != other[name]} == {"report"}
    assert less.select(["judge", "ssl"]) == ["ssl", "judge"]


def test_the_old_name_of_a_stage_is_pointed_out():
    with pytest.raises(UserError, match="names diffusion \\(now called generator\\)"):
        Graph(several()).select(["diffusion"])


def test_without_a_cache_its_settings_do_not_count():
    assert not changed(base(), base(latents__copies=2, latents__dtype="bfloat16"))
    cached = {"latents__cache": True}
    assert "latents" in changed(base(**cached), base(latents__copies=2, **cached))


def of_method(changes=(), **others):
    sets = {"s": {"method": "reinhard", "changes": changes}}
    return base(synthesis__sets=sets, **others)


def test_a_set_without_a_denoiser_needs_the_data_alone_and_ignores_the_sampling():
    assert Graph(of_method())["synthesis/s"].needs == ("data",)
    for harmless in ("steps", "strength", "start", "guidance__scale"):
        value = {"steps": 9, "strength": 0.5, "start": "tile", "guidance__scale": 9.0}[harmless]
        after = of_method(**{"synthesis__start": "tile", f"synthesis__{harmless}": value})
        assert "synthesis/s" not in changed(of_method(), after), harmless
    assert "synthesis/s" in changed(of_method(), of_method(synthesis__recolor="macenko"))
    assert "synthesis/s" in changed(of_method(), of_method(diffusion__style__tiles=3))


@pytest.mark.parametrize(
    ("source", "published", "reads"),
    [("nearby", False, True), ("nearby_grid", False, False), ("multipatch", True, False)],
)
def test_generators_that_learned_from_the_grid_as_nearby_are_made_anew(source, published, reads):
    style = {"source": source, "as_published_code": published}
    changes = {f"diffusion__style__{key}": value for key, value in style.items()}
    found = Graph(several(**changes))["generator/stedm"].reads
    assert ("nearby" in found) == reads
    assert ("diffusion.style.as_published_code" in found) == published
    if published:
        key = "diffusion__style__as_published_code"
        assert "synthesis/s" in changed(of_method(), of_method(**{key: True}))
