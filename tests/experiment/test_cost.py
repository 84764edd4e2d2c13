"""What the plan says of guided denoisers and of the heads on their features."""

import re

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import ClassMap
from stedm_jax.experiment import cost as costs
from stedm_jax.experiment import guided_cache, measured
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import check_classes
from stedm_jax.experiment.cost import Costs, say
from stedm_jax.experiment.plan import print_plan
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.flat import flatten
from tests.experiment.settings import tiny, unchecked
from tests.experiment.test_cells import SEVERAL
from tests.experiment.test_segmenters import small

CLASSES = ClassMap(
    ("stroma", "gland"), ((0, 0, 0), (9, 9, 9)), np.arange(256, dtype=np.uint8), (1,)
)
RECORDS = {"train": 100, "val": 10, "test": 10, "style": 50, "other": 7}


def cost(settings, cell, records=()):
    return Costs(settings, CLASSES, dict(records)).of(Graph(settings)[cell])


@pytest.mark.slow
def test_a_guide_that_reads_the_field_around_is_planned_and_costs_more():
    settings = unchecked(small(network="ldm"), "guided.cache", False)
    both = unchecked(settings, "guided.guide.tokens", ("patch", "region"))
    one, two = (cost(each, "segmentation/a/0").total for each in (settings, both))
    assert two > one > 0


def test_the_cache_of_what_lies_below_the_denoiser_costs(monkeypatch):
    settings = small(network="ldm")
    monkeypatch.setattr(costs, "forward_flops", lambda *_: 7.0)
    bare, full = cost(settings, "guided"), cost(settings, "guided", RECORDS)
    count = 150 * guided_cache.views(settings).count + 20
    assert "(style x 8, train x 8, val x 1, test x 1)" in bare.what
    assert f"{count:,} views, 0.00 GB" in full.what and full.total - bare.total == 7 * count
    both = unchecked(settings, "guided.guide.tokens", ("patch", "region"))
    with pytest.raises(UserError, match="guided.cache keeps what is made of tiles"):
        cost(both, "guided")


def test_a_cost_names_the_network_of_its_arm():
    found = cost(small(network="resnet18-unet"), "segmentation/a/0")
    assert found.networks[0].name == "resnet18-unet" and found.total > 0
    assert "M parameters" in say(found)[1]


def test_a_first_stage_that_learns_nothing_costs_nothing(tile_set):
    settings = tiny(tile_set.path, autoencoder__model__kind="haar", autoencoder__train__steps=0)
    found = cost(settings, "autoencoder")
    assert found.what == "haar of 4 px, nothing to learn" and found.total == 0


def test_the_plan_prints_every_cell_with_its_state(tile_set, tmp_path, capsys):
    settings = tiny(tile_set.path, **SEVERAL)
    workdir, graph = Workdir(tmp_path / "run"), Graph(settings)
    print_plan(settings, workdir)
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if not line.startswith(" ")}
    assert all(" runs" in lines[name] for name in graph.goals)
    assert "needs data, autoencoder, latents, generator/plain" in lines["synthesis/two"]
    assert "32 images in 4 steps" in lines["segmentation/a/1"]
    assert "tiles train 16" in out and not workdir.path.exists()


def test_the_plan_says_what_is_done_and_what_other_settings_invalidate(tile_set, tmp_path, capsys):
    settings = tiny(tile_set.path)
    workdir, graph = Workdir(tmp_path / "run"), Graph(settings)
    stamps = graph.stamps(tile_set.fingerprint)
    workdir.adopt(graph, stamps, graph.goals, flatten(settings), "refuse")
    for name in ("data", "autoencoder"):
        workdir.begin(graph[name], stamps[name])
        with workdir.timed(name) as result:
            result["fingerprint"] = tile_set.fingerprint
    print_plan(tiny(tile_set.path, autoencoder__kl_weight=0.5), workdir)
    out = capsys.readouterr().out
    assert "autoencoder                          is invalid (needs --on_change)" in out
    assert "autoencoder.kl_weight: 1e-06 -> 0.5" in out
    assert "data                                 done" in out


def test_a_measured_plan_gives_the_hours_of_this_machine(tile_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measured, "SECONDS", 0.0)
    settings = tiny(tile_set.path, stages=("data", "autoencoder"))
    workdir, graph = Workdir(tmp_path / "run"), Graph(settings)
    print_plan(settings, workdir, measure=True)
    out = capsys.readouterr().out
    speed = float(re.findall(r"GFLOP/s: autoencoder ([\d.]+)", out)[0]) * 1e9
    total = Costs(settings, check_classes(tile_set, settings), RECORDS).of(graph["autoencoder"])
    hours = [float(each) for each in re.findall(r"FLOP: (\S+) h here", out)]
    assert hours == [pytest.approx(total.total / speed / 3600, rel=0.1)] * 2
    assert not workdir.path.exists()


def test_stages_that_were_not_measured_run_at_the_slowest_of_the_others(tile_set):
    settings = tiny(tile_set.path)
    costs, graph = Costs(settings, check_classes(tile_set, settings), RECORDS), Graph(settings)
    cell = graph["generator/stedm"]
    known = measured.hours({"generator": 2e9, "segmentation": 1e9}, cell, costs)
    unknown = measured.hours({"autoencoder": 2e9, "segmentation": 1e9}, cell, costs)
    assert unknown == 2 * known == costs.of(cell).total / 1e9 / 3600 > 0


def test_the_plan_warns_of_a_batch_that_the_devices_of_this_machine_do_not_divide(
    tile_set, tmp_path, capsys
):
    settings = tiny(tile_set.path, diffusion__train__batch=7)
    print_plan(settings, Workdir(tmp_path / "run"))
    assert "would end with: The global batch of 7 does not divide" in capsys.readouterr().out
    with pytest.raises(UserError, match="--measure would train on the devices"):
        print_plan(settings, Workdir(tmp_path / "run"), measure=True)
