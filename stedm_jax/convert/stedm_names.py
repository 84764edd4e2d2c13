"""The names of tensors in a whole checkpoint of the code released with STEDM.

Every module is registered twice, so every tensor has several names there: all begin with `_model.`
and with `model.`, and `agg_block` and `embedder` also stand as `_agg_block` and `_embedder`. A
plain name is without that: no underscores in front, no `model.`:

    diffusion_model.a.b                       the UNet, its style block as the second of the middle
    model_ema.diffusion_modelab               its averages (published_averages.py)
    model_ema.decay, model_ema.num_updates
    first_stage_model.a.b                     the VQ-f4
    cond_stage_model.channel_mapper.weight    what embeds the layout
    agg_block.embedder.a.b                    Swin-V2-T
    agg_block.(...).1, agg_block.(...).3      the linear aggregation
    agg_block.(...).cls_token, ...            sViT
    betas, ...                                tables of the noise schedule

What (...) is differs; it is found by how the names end.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

UNET, AVERAGES, FIRST, STYLE = "diffusion_model.", "model_ema.", "first_stage_model.", "agg_block."
LAYOUT = "cond_stage_model.channel_mapper.weight"
STYLE_BLOCK = f"{UNET}middle_block.1.block.in_layers.0.weight"
"""Only in checkpoints of STEDM."""

_TWICE = ("agg_block", "embedder")
_STEM, _TOKEN, _FIRST_LINEAR = "features.0.0.weight", "cls_token", "1.weight"


def plain(name: str) -> str:
    """The plain name of a tensor, as above."""
    return re.sub(r"^(model\.)+", "", re.sub(r"(^|\.)_+", r"\1", name))


def published(name: str) -> list[str]:
    """All names in a checkpoint of what has this plain name."""
    names = [f"model.{name}" if name.startswith(UNET) else name]
    if name.startswith(STYLE):
        for part in _TWICE:
            twice = [re.sub(rf"(^|\.){part}\.", rf"\1_{part}.", each) for each in names]
            names = list(dict.fromkeys((*names, *twice)))
    return [f"{top}.{each}" for top in ("_model", "model") for each in names]


def average(name: str) -> str:
    """The plain name of the average of a parameter of the UNet."""
    return f"{AVERAGES}{name.replace('.', '')}"


@dataclass(frozen=True)
class StyleNames:
    """How the plain names of the style's tensors begin.

    Attributes:
      kind: of aggregation: "mean", which max has the same tensors as, "linear", "svit" or "none".
      encoder, aggregation: the beginnings; "" of what there is not.
    """

    kind: str
    encoder: str = ""
    aggregation: str = ""

    @classmethod
    def of(cls, kind: str) -> "StyleNames":
        """Of a network that was trained here."""
        encoder = "" if kind in ("svit", "none") else f"{STYLE}embedder."
        begins = {"linear": f"{STYLE}linear.", "svit": f"{STYLE}embedder."}
        return cls(kind, encoder, begins.get(kind, ""))

    @classmethod
    def found(cls, names: Iterable[str]) -> "StyleNames":
        """Those of a checkpoint with these plain names."""
        own = [name for name in names if name.startswith(STYLE)]
        encoder = _begin(own, _STEM)
        rest = [name for name in own if not encoder or not name.startswith(encoder)]
        for kind, end in (("svit", _TOKEN), ("linear", _FIRST_LINEAR)):
            if begin := _begin(rest, end):
                return cls(kind, encoder, begin)
        return cls("mean" if encoder else "none", encoder)

    def ours(self, name: str) -> str:
        """Our path, with dots, of a plain name; "" where there is none."""
        if self.encoder and name.startswith(self.encoder):
            # sViT may keep an encoder that it does not read.
            return "" if self.kind == "svit" else f"encoder.{name.removeprefix(self.encoder)}"
        if not self.aggregation or not name.startswith(self.aggregation):
            return ""
        own = name.removeprefix(self.aggregation)
        if self.kind == "linear":
            return f"aggregation.layers.{own}"
        # Whatever it is wrapped in: nothing reads it.
        return "aggregation." + re.sub(r"^(to_time_embedding)\..*(weight|bias)$", r"\1.\2", own)

    def theirs(self, name: str) -> str:
        """The plain name of a path of ours, with dots."""
        part, _, own = name.partition(".")
        if part == "encoder":
            return f"{self.encoder}{own}"
        return self.aggregation + own.removeprefix("layers." if self.kind == "linear" else "")


def _begin(names: Iterable[str], end: str) -> str:
    found = (name.removesuffix(end) for name in names if name.endswith(f".{end}"))
    return min(found, key=len, default="")
