"""Arms, generators and sets: what they change, and what is refused of them."""

import pytest

from configs.base import get_base
from configs.glas import get_config as glas
from stedm_jax.common.errors import UserError
from stedm_jax.settings.arm_networks import HEADS, NETWORKS
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.load import from_flat, read_settings
from stedm_jax.settings.root import Settings


def arm(real=1.0, **more):
    return {"real": real, "stain_jitter": 0.0, **more}


def settings_of(config, **arms):
    config.segmentation.arms = arms
    return read_settings(config)


def difference(before, after):
    before, after = flatten(before), flatten(after)
    return {key: after[key] for key in after if before.get(key) != after[key]}


def test_an_arm_changes_what_it_says_and_nothing_else():
    changes = (("features.timesteps", (5, 9)), ("head.tune", True))
    config = glas("pathsegdiff")
    config.report.baseline = ""
    settings = settings_of(config, a=arm(network="concat", changes=changes), b=arm())
    assert difference(settings.segmentation, settings.arm("a")) == {
        "features.source": "concat",
        "features.timesteps": [5, 9],
        "head.tune": True,
    }
    assert settings.arm("b") == settings.segmentation
    assert settings.arm("a").features.timesteps == (5, 9)
    assert settings.arm("judge") == settings.segmentation
    assert settings.arms["a"].is_head and not settings.arms["b"].is_head
    assert settings.arm_entry("judge").stain_jitter == 0.8


def test_weights_to_start_from_are_those_of_the_model_alone():
    config = get_base()
    config.stages = (*config.stages, "guided")
    config.segmentation.init_from = ("encoder=mit-b2-imagenet",)
    own = (("init_from", ("encoder=resnet18-imagenet",)),)
    arms = {name: arm(network=name) for name in NETWORKS}
    settings = settings_of(config, **arms, own=arm(network="resnet18-unet", changes=own))
    for name in NETWORKS:
        wanted = ("encoder=mit-b2-imagenet",) if name == "model" else ()
        assert settings.arm(name).init_from == wanted
    assert settings.arm("own").init_from == ("encoder=resnet18-imagenet",)
    assert set(HEADS) == {name for name in NETWORKS if settings.arms[name].is_head}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"network": "unet++"}, r"arms.a.network is 'unet\+\+'; valid are model, resnet18-unet"),
        ({"real": 1.5}, "arms.a.real is 1.5; give 0 to 1"),
        ({"reel": 1.0}, "arms.a.reel is an unknown key. Did you mean 'real'"),
        ({"changes": (("features.time", (5,)),)}, "arm 'a' changes 'features.time', which config"),
        ({"changes": (("init_from.x", 1),)}, "changes 'init_from.x', which config.segmentation"),
        ({"changes": (("head.width", "wide"),)}, "arm 'a' .*head.width is 'wide'; its type is int"),
        ({"changes": (("head.width", 0),)}, "arm 'a' .*head.width is 0; give 1 or more"),
        ({"changes": (("train.steps", 5),)}, "'train.steps', which is the same for all"),
        ({"changes": (("border", 5),)}, "'border', which is the same for all"),
        ({"changes": (("border_scored", 5),)}, "'border_scored', which is the same for all"),
        ({"changes": (("checkpoint", "best"),)}, "arm 'a': .*checkpoint is 'best', but .*=0 of"),
        ({"changes": (("model.decoder", (8,)),)}, "arm 'a': config.segmentation.model.decoder has"),
        (
            {"network": "ldm", "changes": (("features.timesteps", (1000,)),)},
            "arm 'a': features.timesteps has 1000; give numbers from 0 to 999",
        ),
        ({"network": "ldm", "changes": (("features.scales", (0.3,)),)}, "of 64 px ones of 19.2 px"),
        ({"set": "other", "real": 0.5}, "arms.a.set is 'other', which names other; there are sy"),
        ({"sets": (("other", 1.0),), "real": 0.5}, "arms.a.sets is .* which names other; there"),
        ({"sets": (("synthetic", 0.0),)}, "arms.a.sets is .*; give weights above 0"),
        ({"sets": (("synthetic", 1.0),) * 2}, "arms.a.sets is .*, which names one twice"),
        ({"sets": (("synthetic", 1.0),), "set": "synthetic"}, "are both given"),
        ({"then_real": 5}, "then_real is 5, but .*arms.a.real=1 draws no synth"),
        ({"then_real": 200, "real": 0.5}, "arm 'a': its then_real is 200, but .*train.steps=200"),
        ({"choose": ("b",)}, "arms.a.choose names b; arms that are trained are "),
        ({"choose": ("a",)}, "arms.a.choose names a; arms that are trained are "),
        ({"choose": ("b",), "network": "dcan"}, "choose is given together with network"),
        ({"normalize": "reinhard"}, "normalize is 'reinhard', which scores .* of one other arm"),
        ({"reject": 1.25}, "reject is 1.25, but .*arms.a.real=1 draws no synthetic tiles"),
        ({"reject": 1.25, "real": 0.5}, "arm 'a': its reject is 1.25, which needs the judge; name"),
        ({"splits": ()}, r"splits is \(\); give \(split, weight\) pairs of the splits train and"),
        ({"splits": (("train", 1.0), ("test", 1.0))}, "the others are only for judging"),
    ],
)
def test_an_arm_that_would_fail_after_hours_is_refused_at_once(given, says):
    config = glas("pathsegdiff")
    config.report.baseline = ""
    with pytest.raises(UserError, match=says):
        settings_of(config, a=arm() | given)


@pytest.mark.parametrize("name", ["", "a/b", "judge"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    with pytest.raises(UserError, match=f"has '{name}', which is"):
        settings_of(get_base(), **{name: arm()})


def test_names_are_in_the_order_of_the_alphabet_however_they_were_given():
    settings = read_settings(get_base())
    assert list(settings.guided.splits) == list(Settings().guided.splits) == ["style", "train"]
    given = flatten(settings) | {"ssl.splits.train": 1.0}
    shuffled = dict(reversed(given.items()))
    assert list(from_flat(shuffled).guided.splits) == ["style", "train"]


def test_a_missing_key_of_an_arm_is_named():
    with pytest.raises(UserError, match="arms.a.stain_jitter is missing; give it, such as"):
        settings_of(get_base(), a={"real": 1.0})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"real": 0.5}, "judge learns from real tiles only"),
        ({"choose": ("labelled",)}, "it is the judge, which has to be trained"),
        ({"network": "ldm"}, "the judge is a network of its own: one of model, resnet18-unet"),
        ({"changes": (("model.kind", "unet3"),)}, "arm 'judge'.*kind is 'unet3'"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(given, says):
    config = get_base()
    config.segmentation.judge = arm() | given
    with pytest.raises(UserError, match=says):
        read_settings(config)


def test_a_head_needs_the_denoiser():
    config = glas("pathsegdiff")
    config.stages = ("data", "autoencoder", "latents", "segmentation", "report")
    with pytest.raises(UserError, match="arm 'ldm': .*config.stages does not name guided"):
        read_settings(config)


def test_a_head_that_reads_around_tiles_has_none_around_synthetic_tiles_and_images():
    config = glas("pathsegdiff")
    config.guided.cache = False
    config.guided.guide.tokens = ("patch", "region")
    assert read_settings(config).reads_around("ldm")
    assert not read_settings(config).reads_around("vit")
    assert not read_settings(config).reads_around("dcan")
    config.report.whole = "x"
    with pytest.raises(UserError, match="arm 'ldm': it cannot segment whole images"):
        read_settings(config)
    config.report.whole = ""
    config.segmentation.arms.ldm.real = 0.5
    with pytest.raises(UserError, match=r"arm 'ldm': it learns from synthetic tiles \(real=0.5\)"):
        read_settings(config)


def several():
    """Two generators, and three sets of them."""
    config = get_base()
    config.diffusion.generators = {
        "styled": {},
        "plain": {"changes": (("style.source", "none"), ("unet.multipliers", (1, 2, 4)))},
    }
    config.synthesis.sets = {
        "styled": {"generator": "styled"},
        "strong": {"generator": "styled", "changes": (("guidance.scale", 3.0),)},
        "plain": {"generator": "plain", "changes": (("count", 5),)},
    }
    config.segmentation.arms = {
        "real": arm(),
        "styled": arm(0.2, set="styled"),
        "strong": arm(0.2, set="strong"),
    }
    return config


def test_an_arm_that_chooses_has_one_on_real_tiles_to_fall_back_on():
    config = several()
    with config.segmentation.unlocked():
        config.segmentation.arms.auto = arm(choose=("styled", "real"))
        assert read_settings(config).sets_of("auto") == {"styled": 0.0}
        config.segmentation.arms.auto = arm(choose=("styled", "strong"))
    with pytest.raises(UserError, match="auto.choose names no arm with real=1"):
        read_settings(config)


def test_a_head_is_not_scored_in_one_stain():
    config = glas("pathsegdiff")
    again = arm(choose=("ldm",), normalize="reinhard")
    with pytest.raises(UserError, match="a.choose names a head on features; normalize is for"):
        settings_of(config, a=again, ldm=arm(network="ldm"))


def test_generators_and_sets_change_what_they_say():
    settings = read_settings(several())
    assert settings.generator("styled") == settings.diffusion
    assert difference(settings.diffusion, settings.generator("plain")) == {
        "style.source": "none",
        "unet.multipliers": [1, 2, 4],
    }
    assert difference(settings.synthesis, settings.synthesis_set("strong")) == {
        "guidance.scale": 3.0
    }
    sets = [settings.sets_of(name) for name in settings.arms]
    assert sets == [{}, {"strong": 1.0}, {"styled": 1.0}]
    assert settings.synthesis.sets["plain"].generator == "plain"


def test_a_weaker_generator_is_another_one_of_the_same_prediction():
    config = several()
    weaker = (("guidance.on", "weaker"), ("guidance.weights", "generator:plain"))
    with config.synthesis.sets.unlocked():
        config.synthesis.sets.strong.changes = weaker
    assert read_settings(config).synthesis_set("strong").guidance.weaker_generator == "plain"
    for other, changes, says in (
        ("styled", (), "besides 'styled' .* are: plain"),
        ("nothing", (), "besides 'styled' .* are: plain"),
        ("plain", (("prediction", "v"),), "differ in diffusion.prediction"),
    ):
        config.diffusion.generators.plain.changes = changes
        found = (weaker[0], ("guidance.weights", f"generator:{other}"))
        config.synthesis.sets.strong.changes = found
        with pytest.raises(UserError, match=says):
            read_settings(config)


def test_an_arm_of_0_1_learns_from_the_only_set():
    settings = read_settings(get_base())
    assert settings.sets_of("labelled+synthetic") == {"synthetic": 1.0}
    assert settings.sets_of("labelled") == settings.sets_of("judge") == {}


def test_an_arm_mixes_several_sets_and_splits_by_weight():
    config = several()
    sets, splits = (("strong", 3.0), ("plain", 1.0)), (("train", 1.0), ("style", 4.0))
    config.segmentation.arms = {"a": arm(0.5, sets=sets, splits=splits)}
    settings = read_settings(config)
    assert settings.sets_of("a") == {"strong": 0.75, "plain": 0.25}
    assert settings.arms["a"].real_shares == {"train": 0.2, "style": 0.8}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"segmentation.arms": {"a": arm(0.5)}}, "arm 'a' learns .* several sets .plain, strong"),
        (
            {"segmentation.arms": {"a": arm(0.5, set="x")}},
            "arms.a.set is .*x; there are plain",
        ),
        ({"synthesis.sets": {"s": {"generator": "x"}}}, "s.generator is 'x'; there are plain"),
        ({"synthesis.sets": {"s": {}}}, "synthesis.sets.s.generator is ''; there are plain"),
        ({"synthesis.sets": {}}, r"synthesis.sets is \{\}; give at least one"),
        ({"diffusion.generators": {}}, r"diffusion.generators is \{\}; give at least one"),
        ({"diffusion.generators": {"a/b": {}}}, "has 'a/b', which is no name"),
        (
            {"synthesis.sets": {"s": {"generator": "plain", "changes": (("sets", 1),)}}},
            "set 's' changes 'sets', which is the same",
        ),
        (
            {"diffusion.generators": {"styled": {"changes": (("generators", 1),)}, "plain": {}}},
            "generator 'styled' changes 'generators', which is the same",
        ),
        (
            {"diffusion.generators": {"styled": {"changes": (("unet.heads", 7),)}, "plain": {}}},
            "generator 'styled': config.diffusion.unet.heads is 7",
        ),
        (
            {"synthesis.sets.strong.changes": (("guidance.scale", -1.0),)},
            "set 'strong' .*scale is -1.0",
        ),
        (
            {"synthesis.sets.strong.changes": (("weights", "ema:0.07"),)},
            "set 'strong': .*the training keeps none",
        ),
    ],
)
def test_generators_and_sets_that_cannot_be_are_refused(changes, says):
    config = several()
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        with node.unlocked():
            node[leaf] = value
    with pytest.raises(UserError, match=says):
        read_settings(config)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (("stain_jitter", 0.5), "stain_jitter"),
        (("splits", {"train": 0.5, "style": 0.5}), "splits"),
        (("train.eval_every", 10), "train.eval_every"),
        (("unet.multipliers", (1, 2, 4)), ""),
    ],
)
def test_generators_share_the_cache_of_latents(change, wrong):
    config = several()
    config.latents.cache = True
    config.diffusion.generators.plain = {"changes": (change,)}
    if wrong:
        with pytest.raises(UserError, match=f"generator 'plain': its {wrong} and that of"):
            read_settings(config)
    else:
        read_settings(config)
    config.latents.cache = False
    read_settings(config)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"method": "reinhard", "generator": "plain"}, "uses no generator"),
        (
            {"method": "reinhard", "changes": (("steps", 3),)},
            "'steps', which the method 'reinhard'",
        ),
        ({"method": "adain"}, "synthesis.adain is empty, and the method 'adain'"),
        ({"method": "magic"}, "sets.s.method is 'magic'; valid are denoiser"),
        ({"generator": "plain", "changes": (("strength", 0.5),)}, "strength is 0.5, which needs a"),
        ({"generator": "plain", "changes": (("keep_detail", True),)}, "keep_detail is True"),
        ({"generator": "plain", "changes": (("match", "latent"),)}, "goes with .*start='tile'"),
        (
            {"generator": "plain", "changes": (("start", "inversion"), ("match", "reinhard"))},
            "not 'inversion'",
        ),
    ],
)
def test_sets_that_go_against_their_method_are_refused(entry, says):
    config = several()
    config.segmentation.arms = {"real": {"real": 1.0, "stain_jitter": 0.0}}
    with config.unlocked():
        config.synthesis.sets = {"s": entry}
    with pytest.raises(UserError, match=says):
        read_settings(config)
