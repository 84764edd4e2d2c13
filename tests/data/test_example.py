from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from stedm_jax.data.example import SHORT, encode_example

VALUES = st.one_of(
    st.binary(max_size=2 * SHORT),
    st.floats(width=32, allow_nan=False),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


def by_message(values):
    message = example_pb2.Example()
    for name, value in values.items():
        feature = message.features.feature[name]
        kind = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}[
            type(value)
        ]
        kind.value.append(value)
    return message.SerializeToString(deterministic=True)


NAMES = ["image", "mask", "x", "y", "é", "provenance", "n" * 140]
"""None begins with another: the order of such is not said."""


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1))
def test_equal_to_the_messages_own_bytes(values):
    assert encode_example(values) == by_message(values)


def test_values_that_are_equal_and_of_other_types_are_told_apart():
    for value in (1, 1.0, b"1"):
        assert encode_example({"a": value}) == by_message({"a": value})
