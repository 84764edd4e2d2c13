"""smp.Unet("tu-convnext_*") joins timm's numbers with underscores; ours are timm's own."""

from stedm_jax.convert.table import Rule, Table

TABLE: Table = tuple(
    rule
    for part in ("stem", "stages")
    for rule in (
        Rule(f"encoder.model.{part}_{{n:d}}.weight", f"encoder/{part}/{{n}}/scale", ndim=1),
        Rule(f"encoder.model.{part}_{{n:d}}.weight", f"encoder/{part}/{{n}}/kernel", "kernel"),
        Rule(
            f"encoder.model.{part}_{{n:d}}.{{a}}.weight",
            f"encoder/{part}/{{n}}/{{a}}/scale",
            ndim=1,
        ),
        Rule(
            f"encoder.model.{part}_{{n:d}}.{{a}}.weight",
            f"encoder/{part}/{{n}}/{{a}}/kernel",
            "kernel",
        ),
        Rule(f"encoder.model.{part}_{{n:d}}.{{a}}", f"encoder/{part}/{{n}}/{{a}}"),
    )
)
