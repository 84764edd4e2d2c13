"""torchvision's vgg16: its first linear layer reads 7x7 pixels and is a convolution here, as is the
second.

vgg16's own last layer, `classifier.6`, has no place here, and the scores are new (entries.py).
"""

from stedm_jax.convert.table import LAYOUTS, Rule, Table

LAYOUTS["linear7x7"] = (
    lambda x: x.reshape(x.shape[0], -1, 7, 7).transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1).reshape(x.shape[3], -1),
)
LAYOUTS["linear1x1"] = (lambda x: x.T[None, None], lambda x: x[0, 0].T)

TABLE: Table = (
    Rule("classifier.0.weight", "classifier/0/kernel", "linear7x7"),
    Rule("classifier.3.weight", "classifier/3/kernel", "linear1x1"),
)
