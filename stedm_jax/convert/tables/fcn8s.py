"""torchvision's vgg16: its first linear layer reads 7x7 pixels and is a convolution here, as is the
second.

vgg16's own last layer, `classifier.6`, has no place here, and the scores are new (registry.py).
"""

from stedm_jax.convert.torch_names import Rule, Table

TABLE: Table = (
    Rule("classifier.0.weight", "classifier/0/kernel", "linear7x7"),
    Rule("classifier.3.weight", "classifier/3/kernel", "linear1x1"),
)
