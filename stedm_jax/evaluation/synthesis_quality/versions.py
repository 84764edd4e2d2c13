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
