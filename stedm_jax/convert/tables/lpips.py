"""LPIPS with AlexNet, from a file in flax layout; the names of the PyTorch package need no table."""

from stedm_jax.convert.table import Rule, Table

_SLICES = ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10))
TABLE: Table = (
    *(Rule(f"AlexNet_0/Conv_{i}/{{a}}", f"net/slice{n}/{number}/{{a}}") for i, (n, number) in enumerate(_SLICES)),
    *(Rule(f"NetLinLayer_{i}/Conv_0/{{a}}", f"lin{i}/model/1/{{a}}") for i in range(5)),
)
PYTORCH: Table = ()
PYTORCH_IGNORE = (r"^lins\.", r"^scaling_layer\.")
"""The package's heads stand in its state dict twice, and so do the constants of the input."""
