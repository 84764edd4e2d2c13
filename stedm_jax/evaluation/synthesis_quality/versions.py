"""The metrics of synthetic images, in the order of the report, and their versions.

They enter the stamps of the cells of stage quality: with another metric, or another version, a set
is measured anew.
"""

METRICS = {
    "style_correlation:StyleCorrelation": 2,
    "style_fidelity:StyleFidelity": 1,
    "kept_detail:KeptDetail": 1,
    "layout_iou:LayoutIou": 2,
}
"""File and class -> a number to be raised whenever the class gives other numbers."""
OF_FEATURES = {
    "frechet_distance:FrechetDistance": 1,
    "kernel_distance:KernelDistance": 1,
    "neighborhoods:Neighborhoods": 1,
    "style_retrieval:StyleRetrieval": 1,
    "layout_diversity:LayoutDiversity": 1,
    "memorization:Memorization": 1,
    "kept_energy:KeptEnergy": 1,
}
"""Likewise those that are measured where report.features names an encoder, and by python -m
stedm_jax.evaluate --synthesis."""
