"""Reading and checking a configuration before anything costs time."""

import ast
import difflib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.workdir import STAGES, flatten

FREE = (
    "segmentation.arms",
    "segmentation.judge",
    "autoencoder.splits",
    "ssl.splits",
    "diffusion.splits",
    "guided.splits",
)
"""Keys whose dictionaries an experiment replaces as a whole."""
_ARM_KEYS, _ARM_EXTRAS = {"real", "stain_jitter"}, {"network", "changes"}


def load_config(spec: str) -> tuple[Any, str, str]:
    """Runs the config file that the user named.

    Args:
      spec: "path/to/file.py" or "path/to/file.py:arm".

    Returns:
      The configuration, the name of the file and the arm.

    Raises:
      UserError: there is no such file, it has no get_config, or it refuses the arm.
    """
    path, _, arm = spec.partition(":")
    file = Path(path)
    if not file.is_file():
        known = sorted(
            str(each)
            for each in Path("configs").glob("*.py")
            if each.stem != "base" and each.stem[0] != "_"
        )
        near = f" There are {', '.join(known)}." if known else ""
        raise UserError(f"There is no config file {path}.{near}")
    root = str(file.resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(
            0, root
        )  # so that the file finds its base beside it, wherever the command is run
    module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"The config file {path} has no get_config(arm).")
        return module.get_config(arm), file.stem, arm
    except SyntaxError as error:
        raise UserError(
            f"The config file {path} does not parse: line {error.lineno}: {error.msg}."
        ) from error
    except (ImportError, NameError) as error:
        raise UserError(f"The config file {path} cannot be read: {error}.") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"The config file {path} sets something that configs/base.py does not have: {error}"
        ) from error


def override(config: Any, assignments: list[str]) -> None:
    """Applies "--config.a.b=value" overrides in place; the value keeps the type of the default.

    Raises:
      UserError: an unknown key (with the nearest known one) or a value of another type.
    """
    flat = set(flatten(config))
    for assignment in assignments:
        key, given, text = assignment.partition("=")
        if key not in flat:
            raise UserError(f"The configuration has no key '{key}'.{_nearest(key, flat)}")
        if not given:
            raise UserError(f"'--config.{key}' needs a value: --config.{key}=VALUE.")
        *parents, leaf = key.split(".")
        node: Any = config
        for parent in parents:
            node = node[parent]
        node[leaf] = _parse(key, text, node[leaf])


def _parse(key: str, text: str, old: Any) -> Any:
    kind = type(old)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in (tuple, list) and (written := _written(text)) is not None:
            return kind(_like(old, item) for item in written)
        if kind in (tuple, list):
            items = [item for item in text.strip("()[] ").split(",") if item.strip()]
            element = type(old[0]) if old else _number_or_text
            if element in (tuple, list, dict):
                raise UserError(f"config.{key} is nested; change it in the config file.")
            return kind(element(item.strip()) for item in items)
        return kind(text)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"config.{key} is a {kind.__name__} ({old!r}); '{text}' is none."
        ) from error


def _written(text: str) -> tuple[Any, ...] | None:
    """A tuple as Python writes it: numbers, quoted texts, tuples of them; None where it is not
    written so."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _like(old: Any, item: Any) -> Any:
    """An item of a tuple, of the type of those that stand there now."""
    kinds = {type(each) for each in old}
    if isinstance(item, list):
        item = tuple(item)
    if not kinds or type(item) in kinds:
        return item
    if kinds == {float} and type(item) is int:
        return float(item)
    raise ValueError(f"{item!r} is not like {old!r}")


def _number_or_text(text: str) -> Any:
    if text.lstrip("-").isdigit():
        return int(text)
    return float(text) if re.fullmatch(r"-?(\d+\.\d*|\.\d+)(e-?\d+)?", text) else text


def check_config(config: Any, base: Any) -> None:
    """Refuses keys that the base configuration does not have, and values that cannot be.

    Raises:
      UserError: names the key, with the nearest known one.
    """
    known, given = flatten(base), flatten(config)
    for key in given:
        if key not in known and not key.startswith(FREE):
            raise UserError(
                f"The configuration has an unknown key '{key}'.{_nearest(key, set(known))}"
            )
    lost = [key for key in known if key not in given and not key.startswith(FREE)]
    if lost:
        raise UserError(
            f"The configuration lacks the keys {', '.join(lost)}; start from configs.base.get_base()."
        )
    wrong = [stage for stage in config.stages if stage not in STAGES]
    if wrong:
        raise UserError(f"config.stages names {', '.join(wrong)}; valid are {', '.join(STAGES)}.")
    for name, arm in [*config.segmentation.arms.items(), ("judge", config.segmentation.judge)]:
        if not _ARM_KEYS <= set(arm.keys()) <= _ARM_KEYS | _ARM_EXTRAS or not 0 <= arm.real <= 1:
            raise UserError(
                f"The arm '{name}' of config.segmentation needs the keys {', '.join(sorted(_ARM_KEYS))}, with real "
                f"between 0 and 1, and may have {' and '.join(sorted(_ARM_EXTRAS))}, but no other."
            )
        if "/" in name or name == "":
            raise UserError(f"'{name}' is no name for an arm.")
    if config.segmentation.judge.real != 1:
        raise UserError(
            "config.segmentation.judge.real must be 1: the judge learns from real tiles only."
        )
    _check_values(config)
    if config.data.tile % 2 ** halvings(config):
        raise UserError(
            f"data.tile={config.data.tile} cannot be halved {halvings(config)} times, as the autoencoder does; choose "
            "another tile size."
        )


def halvings(config: Any) -> int:
    """How often the autoencoder halves an image."""
    model = config.autoencoder.model
    return 3 if model.kind == "taef2" else len(model.multipliers) - 1


_CHOICES = {
    "autoencoder.adversarial.norm": ("batch", "group", "none"),
    "segmentation.checkpoint": ("last", "best"),
    "segmentation.head.kind": ("convolution", "linear"),
    "autoencoder.model.kind": ("kl", "vq", "taef2"),
    "diffusion.prediction": ("eps", "v", "x0"),
    "latents.dtype": ("float16", "bfloat16", "float32"),
}


_LENGTHS = {
    "ssl.augment.blur": 3,
    "ssl.teacher_temperature": 2,
    "segmentation.model.fcn8s.widths": 5,
    "segmentation.model.dcan.widths": 5,
}


def _check_values(config: Any) -> None:
    """What would otherwise be found out after hours."""
    flat = flatten(config)
    for key, valid in _CHOICES.items():
        if flat[key] not in valid:
            raise UserError(f"config.{key} is '{flat[key]}'; valid are {', '.join(valid)}.")
    codec = config.synthesis.codec
    if codec != "png" and not (codec.startswith("jpeg") and codec[4:].isdigit()):
        raise UserError(f"config.synthesis.codec is '{codec}'; use png, or jpeg50 to jpeg100.")
    if config.latents.variants not in (1, 8):
        raise UserError(f"config.latents.variants is {config.latents.variants}; valid are 8 and 1.")
    for key, length in _LENGTHS.items():
        if len(flat[key]) != length:
            raise UserError(f"config.{key} is {tuple(flat[key])}; give {length} numbers.")
    if not config.name.isidentifier():
        raise UserError(f"config.name is '{config.name}'; use letters, digits and underscores.")
    if config.seed < 0 or not config.segmentation.seeds or "judge" in config.segmentation.arms:
        raise UserError(
            "config.seed must be 0 or more, segmentation.seeds not empty, and no arm be called 'judge'."
        )
    if min(config.report.layouts, config.report.styles) < 1:
        raise UserError("config.report.layouts and report.styles must be 1 or more.")
    crop, border, tile = config.autoencoder.crop, config.segmentation.border, config.data.tile
    levels = halvings(config)
    denoiser = levels + len(config.diffusion.unet.multipliers) - 1
    model = config.segmentation.model
    segmenter = 5 if model.kind in ("fcn8s", "dcan") else len(model.decoder)
    for what, side, times in (
        ("autoencoder.crop", crop, levels),
        ("data.tile", tile, denoiser),
        ("data.tile", tile, segmenter),
    ):
        if side % 2**times:
            raise UserError(
                f"config.{what}={side} must be a multiple of {2**times} for these networks."
            )
    _check_guidance(config)
    _check_guide(config)
    ablation, baseline = config.report.ablation, config.report.baseline
    if baseline and baseline not in config.segmentation.arms:
        raise UserError(
            f"config.report.baseline is '{baseline}', which is no arm; there are {', '.join(config.segmentation.arms)}."
        )
    if ablation and ablation not in flatten(config.segmentation):
        raise UserError(
            f"config.report.ablation is '{ablation}', which is no key of config.segmentation."
            f"{_nearest(ablation, set(flatten(config.segmentation)))}"
        )
    _check_counts(flat)
    _check_weights(config)
    adversarial, steps = config.autoencoder.adversarial, config.autoencoder.train.steps
    if adversarial.weight > 0 and adversarial.start >= steps > 0:
        raise UserError(
            f"config.autoencoder.adversarial.start={adversarial.start} lies behind the last of {steps} steps, so that "
            "its weight would do nothing; start earlier, or set adversarial.weight=0."
        )
    if config.autoencoder.lpips and (crop or tile) < SMALLEST_FOR_LPIPS:
        raise UserError(
            f"LPIPS needs images of {SMALLEST_FOR_LPIPS} px or more, and config.autoencoder.crop={crop} (0: whole "
            "tiles) leaves less; use a larger crop, or autoencoder.lpips=''."
        )
    if config.diffusion.watch.judge and not config.diffusion.train.visual_every:
        raise UserError(
            "config.diffusion.watch.judge=True asks the judge about what diffusion.train.visual_every draws, and that "
            "is 0: never; set it, or watch.judge=False."
        )
    if config.latents.cache and "diffusion" not in config.stages:
        raise UserError(
            "config.latents.cache=True stores latents for the stage diffusion, which config.stages does not name; set "
            "it False (guided.cache=True stores them for the stage guided)."
        )
    style = config.diffusion.style
    if style.encoder.startswith("vit:") != bool(style.weights) and style.source != "none":
        raise UserError(
            f"config.diffusion.style.encoder='{style.encoder}' and style.weights='{style.weights}' do not go together: "
            "a pathology encoder vit:NAME is not trained and needs weights, and no other encoder takes any."
        )
    if 2 * border >= tile:
        raise UserError(
            f"config.segmentation.border={border} leaves nothing of tiles of {tile} px."
        )


def _check_weights(config: Any) -> None:
    weights, averages = config.synthesis.weights, config.diffusion.train.ema
    if weights in ("ema", "params"):
        return
    if not weights.startswith("ema:"):
        if not Path(weights).is_dir():
            raise UserError(
                f"config.synthesis.weights is '{weights}'; valid are ema, params, ema:WIDTH as ema:0.07, or a folder "
                "that python -m stedm_jax.ema or stedm_jax.convert wrote, and there is no such folder."
            )
        return
    if not re.fullmatch(r"ema:0?\.\d+", weights):
        raise UserError(
            f"config.synthesis.weights is '{weights}'; a width is a number below 0.2887, as in ema:0.07."
        )
    if not averages.snapshot_every or not averages.tracks:
        raise UserError(
            f"config.synthesis.weights is '{weights}', which is combined from snapshots, but the training keeps none: "
            "set diffusion.train.ema.tracks=(0.05, 0.10) and diffusion.train.ema.snapshot_every."
        )


SMALLEST_FOR_LPIPS = 31
_COUNTS = (
    "autoencoder.train.batch",
    "ssl.train.batch",
    "ssl.head.prototypes",
    "ssl.crops.global_size",
    "ssl.crops.local_size",
    "ssl.probe.tiles",
    "ssl.probe.neighbours",
    "diffusion.train.steps",
    "diffusion.train.batch",
    "segmentation.train.steps",
    "segmentation.train.batch",
    "diffusion.style.tiles",
    "diffusion.style.dim",
    "diffusion.schedule.steps",
    "synthesis.count",
    "synthesis.batch",
    "synthesis.steps",
    "latents.tiles",
    "latents.copies",
    "data.tile",
    "data.threads",
    "mesh.fsdp",
    "guided.train.batch",
    "guided.schedule.steps",
    "guided.guide.dim",
    "segmentation.head.width",
    "segmentation.model.fcn8s.hidden",
    "segmentation.model.dcan.hidden",
    "diffusion.watch.layouts",
    "diffusion.watch.styles",
    "diffusion.watch.steps",
)


def _check_counts(flat: dict[str, Any]) -> None:
    for key in _COUNTS:
        if flat[key] < 1:
            raise UserError(f"config.{key} is {flat[key]}; give 1 or more.")
    for stage in ("autoencoder", "ssl", "guided"):
        steps = flat[f"{stage}.train.steps"]
        if steps < (0 if flat[f"{stage}.init_from"] else 1):
            raise UserError(
                f"config.{stage}.train.steps is {steps}; give 1 or more, or 0 together with {stage}.init_from to take "
                "those weights as they are."
            )


def _check_guidance(config: Any) -> None:
    guidance, share = config.synthesis.guidance, config.diffusion.drop_layout
    for key in ("interval", "layout_interval"):
        pair = tuple(guidance[key])
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1:
            raise UserError(
                f"config.synthesis.guidance.{key} is {pair}; give two numbers, 0 <= low <= high <= 1."
            )
    if not 0 <= share <= 1 or not 0 <= config.diffusion.style.drop <= 1:
        raise UserError(
            "config.diffusion.drop_layout and diffusion.style.drop are shares, from 0 to 1."
        )
    if share and not config.diffusion.style.drop:
        raise UserError(
            "config.diffusion.drop_layout drops layouts along with styles, but diffusion.style.drop is 0."
        )
    low, high = guidance.layout_interval
    if share == 1 and (low > guidance.interval[0] or high < guidance.interval[1]):
        raise UserError(
            "With config.diffusion.drop_layout=1 a layout never stays without its style, as it would outside "
            "synthesis.guidance.layout_interval; use a lower drop_layout, or a layout_interval as wide as the interval."
        )


def _check_guide(config: Any) -> None:
    """Of the guided denoiser, which runs only where the stages name it."""
    guided, tile = config.guided, config.data.tile
    guide, unet = guided.guide, guided.unet
    if not 0 <= guide.drop <= 1 or not guide.tokens:
        raise UserError(
            "config.guided.guide.drop is a share, from 0 to 1, and guide.tokens names one token or two."
        )
    if guide.source != "none" and (
        unet.attention != "transformer" or unet.context_dim != guide.dim
    ):
        raise UserError(
            f"config.guided.guide gives tokens of length {guide.dim} (guide.dim), but guided.unet has attention="
            f"'{unet.attention}' and context_dim={unet.context_dim}; set attention='transformer' and "
            f"context_dim={guide.dim}."
        )
    if guide.source.startswith("vit:") != bool(guide.weights):
        raise UserError(
            f"config.guided.guide.source='{guide.source}' and guide.weights='{guide.weights}' do not go together: a "
            "Vision Transformer vit:NAME needs weights, and no other source takes any."
        )
    if "guided" not in config.stages:
        return
    divisor = 2 ** (halvings(config) + len(unet.multipliers) - 1)
    if tile % divisor:
        raise UserError(
            f"config.data.tile={tile} must be a multiple of {divisor}: the autoencoder halves a tile "
            f"{halvings(config)} times, and guided.unet its latents {len(unet.multipliers) - 1} times."
        )


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
