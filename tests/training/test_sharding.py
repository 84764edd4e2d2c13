import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from stedm_jax.common.errors import UserError
from stedm_jax.training import sharding


def test_mesh_shapes() -> None:
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(sharding.make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(UserError, match=r"\[1, 2, 4, 8\]"):
        sharding.make_mesh(fsdp=3)
    with pytest.raises(UserError, match="set mesh.data to 4"):
        sharding.make_mesh(data=2, fsdp=2)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), PartitionSpec()),
        ((4095,), PartitionSpec()),
        ((4096,), PartitionSpec("fsdp")),
        ((64, 128), PartitionSpec(None, "fsdp")),
        ((128, 64), PartitionSpec("fsdp")),
        ((3, 3, 64, 64), PartitionSpec(None, None, None, "fsdp")),
        ((4096, 63), PartitionSpec("fsdp")),
        ((65, 65), PartitionSpec()),
    ],
)
def test_rule_for_parameters(shape, spec) -> None:
    mesh = sharding.make_mesh(fsdp=4)
    tree = sharding.param_shardings({"a": jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh)
    assert tree["a"].spec == spec


def test_batches_are_cut_over_all_devices() -> None:
    mesh = sharding.make_mesh(fsdp=4)
    batch = {"x": np.arange(16, dtype=np.uint8).reshape(16, 1)}
    out = sharding.to_global(batch, mesh)["x"]
    assert out.dtype == np.uint8 and [s.data.shape for s in out.addressable_shards] == [(2, 1)] * 8
    np.testing.assert_array_equal(out, batch["x"])
    with pytest.raises(UserError, match="12 .*nearest valid: 8 or 16"):
        sharding.to_global({"x": np.zeros((12, 1))}, mesh)
    with pytest.raises(UserError, match="nearest valid: 8\\."):
        sharding.to_global({"x": np.zeros((3, 1))}, mesh)
