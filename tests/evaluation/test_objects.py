"""From masks to objects and back."""

import numpy as np

from stedm_jax.evaluation.objects import classes_in_objects, fill_holes, to_objects


def test_from_a_mask_to_objects():
    mask = np.zeros((20, 40), np.bool_)
    mask[2:12, 2:12], mask[5:7, 5:7], mask[14:18, 2:12], mask[15:17, 0:3] = True, False, True, False
    mask[2:10, 20:30], mask[4:8, 22:28], mask[18, 36] = True, False, True
    objects = to_objects(mask, least=2, hole=4)
    assert (
        objects.max() == 3
        and objects[5, 5] == objects[2, 2]
        and objects[5, 24] == 0
        and objects[18, 36] == 0
    )
    assert to_objects(mask).max() == 4 and (to_objects(mask) > 0).sum() == mask.sum()
    edge = np.ones((5, 5), np.bool_)
    edge[0, 2] = False
    assert not fill_holes(edge, 9)[0, 2]
    diagonal = np.eye(4, dtype=np.bool_)
    assert to_objects(diagonal).max() == 1
    assert to_objects(np.zeros((3, 3), np.bool_), least=1, hole=1, grow=2).max() == 0


def test_objects_grow_towards_each_other_and_not_into():
    mask = np.zeros((9, 21), np.bool_)
    mask[:, 2:8], mask[:, 12:18] = True, True
    grown = to_objects(mask, grow=3)
    np.testing.assert_array_equal(grown[4], [1] * 10 + [2] * 11)
    assert (to_objects(mask, grow=1) > 0).sum() == mask.sum() + 4 * 9


def test_foreground_is_where_the_objects_are():
    classes = np.array([[0, 1, 1, 2, 0, 3, 3]], np.uint8)
    objects = np.array([[1, 1, 1, 1, 1, 0, 2]], np.int32)
    found = classes_in_objects(classes, objects, (1, 3), 0)
    np.testing.assert_array_equal(found, [[1, 1, 1, 1, 1, 0, 3]])
