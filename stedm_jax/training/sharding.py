"""One mesh (data, fsdp) for everything: how parameters and batches lie on the devices.

Parameters are cut along `fsdp` only; batches along both axes, so every device has its own images.
All axes are of type Auto: the compiler places the collectives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from stedm_jax.common.errors import UserError

AXES = ("data", "fsdp")
MIN_ELEMENTS = 4096  # smaller leaves are replicated: cutting them costs more than it saves


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over all devices (or those given); `data` = -1 takes what `fsdp` leaves.

    Raises:
      UserError: data x fsdp is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        valid = [n for n in range(1, count + 1) if count % n == 0]
        raise UserError(
            f"mesh.fsdp is {fsdp}, but {count} device(s) do not divide by it; choose one of "
            f"{valid}."
        )
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        raise UserError(
            f"The mesh data {data} x fsdp {fsdp} needs {data * fsdp} devices and there are "
            f"{count}; set mesh.data to {count // fsdp}, or to -1 to take all that are there."
        )
    return jax.make_mesh(
        (data, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First dimension cut over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def param_shardings(abstract: Any, mesh: Mesh) -> Any:
    """Shardings for a tree of arrays or ShapeDtypeStructs, as a tree of the same structure.

    The largest dimension that `fsdp` divides is cut (the last of equals); leaves under 4096
    elements are replicated.
    """
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, _spec(np.shape(leaf), mesh.shape["fsdp"])), abstract
    )


def _spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or int(np.prod(shape)) < MIN_ELEMENTS or not fitting:
        return PartitionSpec()
    cut = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == cut else None for axis in range(cut + 1)))


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this host's part of a batch on its devices, as global arrays cut along the first
    dimension.

    Raises:
      UserError: the global batch does not divide over the devices; names the nearest sizes that do.
    """
    for value in batch.values():
        check_batch(len(value) * jax.process_count(), mesh)
    return _from_host(dict(batch), batch_sharding(mesh))


def to_replicated(tree: Any, mesh: Mesh) -> Any:
    """Puts host arrays, equal on every host, whole on every device."""
    return _from_host(tree, replicated(mesh))


def to_host(tree: Any, mesh: Mesh) -> Any:
    """Arrays of a mesh whole in the memory of every host; all of them call it."""
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), whole)


def _from_host(tree: Any, sharding: NamedSharding) -> Any:
    make = jax.make_array_from_process_local_data
    return jax.tree.map(lambda leaf: make(sharding, np.asarray(leaf)), tree)


def place(tree: Any, shardings: Any) -> Any:
    """Puts a tree where `shardings`, of the same structure, say.

    With several hosts, arrays in the memory or on the devices of one are the same on every host.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings)


def own_rows(rows: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch of so many the devices of this host hold, in the order in which
    `to_global` takes them."""
    places = batch_sharding(mesh).addressable_devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[index] for index in places.values()]))


def check_batch(batch: int, mesh: Mesh | AbstractMesh, accumulate: int = 1) -> None:
    """Refuses (UserError) a global batch size that does not divide over the mesh and its
    micro-batches."""
    count, what = mesh.size * accumulate, "devices"
    if batch % count == 0:
        return
    if accumulate > 1:
        what = f"({mesh.size} devices x {accumulate} micro-batches)"
    below = batch // count * count
    nearest = " or ".join(str(n) for n in (below, below + count) if n)
    raise UserError(
        f"The global batch of {batch} does not divide over {count} {what}; the nearest valid: "
        f"{nearest}."
    )
