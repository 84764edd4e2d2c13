"""Programs whose collectives are known, on eight devices, and lines as the TPU compiler writes
them."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import shard_map
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from stedm_jax.doctor.collectives import Traffic, group_size, traffic
from stedm_jax.doctor.hlo import Instruction, Module
from stedm_jax.models import autoencoder
from stedm_jax.models.functional import Functional, on_each_device


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def compiled(mesh, fn, ins, outs, *shapes) -> Module:
    cut = lambda specs: jax.tree.map(partial(NamedSharding, mesh), specs)  # noqa: E731
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.jit(fn, in_shardings=cut(ins), out_shardings=cut(outs)).lower(*given).compile()
    return Module(program.as_text())


def sent(module: Module) -> dict[str, Traffic]:
    return traffic(module)


def total(count: float, size: float, wire: float) -> Traffic:
    return Traffic(float(count), float(size), float(wire))


def test_a_sum_over_an_axis(mesh) -> None:
    module = compiled(mesh, lambda x: x.sum(0), (P("data"),), P(), (8, 1024))
    assert module.partitions == 8
    size = 1024 * 4
    assert sent(module) == {"all-reduce": total(1, size, 2 * 3 / 4 * size)}


def test_a_sum_over_both_axes(mesh) -> None:
    module = compiled(mesh, lambda x: x.sum(), (P(("data", "fsdp")),), P(), (8, 1024))
    assert sent(module) == {"all-reduce": total(1, 4, 2 * 7 / 8 * 4)}


def test_gathering(mesh) -> None:
    size = 64 * 1024 * 4
    module = compiled(mesh, lambda x: x * 2.0, (P("data"),), P(), (64, 1024))
    assert sent(module) == {"all-gather": total(1, size, 3 / 4 * size)}
    module = compiled(mesh, lambda x: x * 2.0, (P(("data", "fsdp")),), P(), (64, 1024))
    assert sent(module) == {"all-gather": total(1, size, 7 / 8 * size)}


def test_reduce_scatter_permute_and_all_to_all(mesh) -> None:
    size, part = 64 * 128 * 4, 16 * 128 * 4
    share = partial(shard_map, mesh=mesh, out_specs=P("data"), check_vma=False)
    scatter = share(lambda x: jax.lax.psum_scatter(x, "data", tiled=True), in_specs=P(None))
    assert sent(compiled(mesh, scatter, (P(),), P("data"), (64, 128))) == {
        "reduce-scatter": total(1, size, 3 / 4 * size)
    }
    around = share(
        lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 4) for i in range(4)]),
        in_specs=P("data"),
    )
    assert sent(compiled(mesh, around, (P("data"),), P("data"), (64, 128))) == {
        "collective-permute": total(1, part, part)
    }
    turned = share(lambda x: jax.lax.all_to_all(x, "data", 1, 0, tiled=True), in_specs=P("data"))
    assert sent(compiled(mesh, turned, (P("data"),), P("data"), (64, 128))) == {
        "all-to-all": total(1, part, 3 / 4 * part)
    }


def test_a_loop_counts_once_per_iteration(mesh) -> None:

    def loop(x, w):
        def turn(carry, _):
            return jax.lax.with_sharding_constraint(carry @ w, NamedSharding(mesh, P("data"))), None

        return jax.lax.scan(turn, x, None, length=5)[0]

    module = compiled(mesh, loop, (P("data"), P("fsdp")), P("data"), (64, 256), (256, 256))
    size = 16 * 256 * 4
    assert sent(module)["all-reduce"] == total(5, 5 * size, 5 * 2 * 1 / 2 * size)
    assert not module.unknown


def test_gradients_of_data_parallel_training_are_summed_once(mesh) -> None:
    def step(w, x):
        return w - jax.grad(lambda w: jnp.mean(jnp.square(jnp.tanh(x @ w))))(w)

    module = compiled(mesh, step, (P(), P(("data", "fsdp"))), P(), (64, 32), (16, 64))
    size = 64 * 32 * 4
    assert sent(module) == {"all-reduce": total(1, size, 2 * 7 / 8 * size)}


def test_the_gradient_of_a_loop_over_parts_is_summed_after_it(mesh) -> None:
    """What on_each_device is for: a parameter that every iteration uses, as the style encoder's for
    each tile of a style."""

    def parts(w, x):
        return jax.lax.map(lambda part: jnp.tanh(part @ w), jnp.moveaxis(x, 1, 0)).mean(0)

    def step(w, x, encode):
        return w - jax.grad(lambda w: jnp.mean(jnp.square(encode(parts, w, x))))(w)

    size, shapes = 64 * 32 * 4, ((64, 32), (16, 5, 64))
    for encode, turns in ((lambda fn, w, x: fn(w, x), 5), (on_each_device, 1)):
        with jax.set_mesh(mesh):
            module = compiled(
                mesh, partial(step, encode=encode), (P(), P(("data", "fsdp"))), P(), *shapes
            )
        assert sent(module) == {"all-reduce": total(turns, turns * size, turns * 2 * 7 / 8 * size)}


def test_searching_a_codebook_in_parts_stays_on_the_device(mesh, monkeypatch) -> None:
    monkeypatch.setattr(autoencoder, "PAIRS", 8 * 16 * 32 // 4)  # four parts
    search = Functional(lambda make: autoencoder.Codebook(make, 32, 3))
    given = search.init(jax.random.key(0))
    search_all = lambda z: search.apply(given, z)  # noqa: E731
    module = compiled(mesh, search_all, (P(("data", "fsdp")),), P(("data", "fsdp")), (8, 4, 4, 3))
    assert not sent(module)


# As the TPU compiler writes: a loop whose iterations follow from its condition, a collective in
# three parts, a reduce-scatter as a fusion of an all-reduce, groups by axes of a mesh.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=16

%fused_start (param_0: bf16[32,1024]) -> (bf16[32,1024], bf16[128,1024]) {
  %param_0 = bf16[32,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.27 = bf16[128,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0), channel_id=5, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %custom-call.2 = (bf16[32,1024]{1,0}, bf16[128,1024]{1,0}) custom-call(%all-gather.27), custom_call_target="AsyncCollectiveStart"
}

%fused_done (param_0.1: bf16[32,1024]) -> bf16[128,1024] {
  %param_0.1 = bf16[32,1024]{1,0} parameter(0)
  %all-gather.31 = bf16[128,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0.1), channel_id=5, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %custom-call.4 = bf16[128,1024]{1,0} custom-call(%all-gather.31), custom_call_target="AsyncCollectiveDone"
}

%add.clone (x.3: f32[], y.1: f32[]) -> f32[] {
  %y.1 = f32[]{:T(128)} parameter(1)
  %x.3 = f32[]{:T(128)} parameter(0)
  ROOT %add.4 = f32[]{:T(128)} add(%x.3, %y.1)
}

%all-reduce-scatter.1 (input.1: f32[1024,1024]) -> f32[256,1024] {
  %input.1 = f32[1024,1024]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.6 = f32[1024,1024]{1,0:T(8,128)} all-reduce(%input.1), channel_id=11, replica_groups={{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}, use_global_device_ids=true, to_apply=%add.clone
  ROOT %slice.1 = f32[256,1024]{1,0} slice(%all-reduce.6), slice={[0:256], [0:1024]}
}

%body (wide.param.2: (s32[], bf16[32,1024])) -> (s32[], bf16[32,1024]) {
  %one = s32[]{:T(128)} constant(1)
  %wide.param.2 = (s32[]{:T(128)}, bf16[32,1024]{1,0}) parameter(0)
  %get-tuple-element.48 = s32[]{:T(128)} get-tuple-element(%wide.param.2), index=0
  %add.6 = s32[]{:T(128)} add(%get-tuple-element.48, %one)
  %get-tuple-element.49 = bf16[32,1024]{1,0} get-tuple-element(%wide.param.2), index=1
  %async-collective-start = (bf16[32,1024]{1,0}, bf16[128,1024]{1,0}) fusion(%get-tuple-element.49), kind=kCustom, calls=%fused_start
  %async-collective-done = bf16[128,1024]{1,0} fusion(%get-tuple-element.49), kind=kCustom, calls=%fused_done
  ROOT %tuple.18 = (s32[]{:T(128)}, bf16[32,1024]{1,0}) tuple(%add.6, %get-tuple-element.49)
}

%condition (wide.param.1: (s32[], bf16[32,1024])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %wide.param.1 = (s32[]{:T(128)}, bf16[32,1024]{1,0}) parameter(0)
  %get-tuple-element.28 = s32[]{:T(128)} get-tuple-element(%wide.param.1), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%get-tuple-element.28, %seven), direction=LT
}

ENTRY %main.3_spmd (param.2: f32[1024,1024], param.3: bf16[32,1024]) -> f32[256,1024] {
  %zero = s32[]{:T(128)} constant(0)
  %param.2 = f32[1024,1024]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %param.3 = bf16[32,1024]{1,0} parameter(1)
  %copy.10 = s32[]{:T(128)} copy(%zero)
  %tuple.16 = (s32[]{:T(128)}, bf16[32,1024]{1,0}) tuple(%copy.10, %param.3)
  %while.10 = (s32[]{:T(128)}, bf16[32,1024]{1,0}) while(%tuple.16), condition=%condition, body=%body
  %all-reduce.3 = f32[1024,1024]{1,0} all-reduce(%param.2), channel_id=12, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=4], device_ids=([4,4]T(1,0)) {'axis_2'}, use_global_device_ids=true, to_apply=%add.clone
  ROOT %fusion.1 = f32[256,1024]{1,0:T(8,128)S(1)} fusion(%all-reduce.3), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_what_the_tpu_compiler_writes() -> None:
    module = Module(TPU)
    found = sent(module)
    gathered, square = 128 * 1024 * 2, 1024 * 1024 * 4
    assert found["all-gather"] == total(
        7, 7 * gathered, 7 * 3 / 4 * gathered
    )  # once per iteration, not once per part
    assert found["reduce-scatter"] == total(1, square, 3 / 4 * square)
    assert found["all-reduce"] == total(1, square, 2 * 3 / 4 * square)
    assert not module.unknown


def test_a_loop_whose_end_is_not_known_counts_once_and_is_named() -> None:
    module = Module(TPU.replace("direction=LT", "direction=NE"))
    assert sent(module)["all-gather"].count == 1
    assert module.unknown == ["while.10"]


def test_a_loop_that_begins_later_or_makes_larger_steps_has_fewer_iterations() -> None:
    later = Module(
        TPU.replace("%zero = s32[]{:T(128)} constant(0)", "%zero = s32[]{:T(128)} constant(3)")
    )
    assert sent(later)["all-gather"].count == 4
    larger = Module(
        TPU.replace("%one = s32[]{:T(128)} constant(1)", "%one = s32[]{:T(128)} constant(2)")
    )
    assert sent(larger)["all-gather"].count == 4


START = """HloModule jit_f, num_partitions=8

ENTRY %main (p: f32[8,128]) -> f32[64,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %s = f32[8,128]{1,0} parameter(1)
  %ags = (f32[8,128]{1,0}, f32[64,128]{1,0}) all-gather-start(%p), channel_id=1, replica_groups={}, dimensions={0}
  %agd = f32[64,128]{1,0} all-gather-done(%ags)
  %ars = f32[8,128]{1,0} all-reduce-start(%s), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %ard = f32[8,128]{1,0} all-reduce-done(%ars)
  %both = (f32[8,128]{1,0}, f32[16]{0}) all-reduce(%s, %s), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %cps = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[], u32[]) collective-permute-start(%s), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %cpd = f32[8,128]{1,0} collective-permute-done(%cps)
  ROOT %out = f32[64,128]{1,0} add(%agd, %agd)
}
"""  # noqa: E501


def test_pairs_of_start_and_done_and_tuples() -> None:
    found = sent(Module(START))
    part = 8 * 128 * 4
    assert found["all-gather"] == total(1, 8 * part, 7 * part)
    assert found["all-reduce"] == total(2, 2 * part + 64, part + 2 * 3 / 4 * (part + 64))
    assert found["collective-permute"] == total(1, part, part)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3}}", 2),
        ("{}", 16),
        ("[2,8]<=[16]", 8),
        ("[8,2]<=[4,4]T(1,0)", 2),
        ("mesh['a'=4,'b'=4] {'a','b'}", 16),
        ("mesh['a'=4,'b'=2,'c'=2], device_ids=([4,4]T(1,0)) {'b'}", 2),
        ("mesh['a'=4,'b'=4] {'a':(1)2}", 2),
    ],
)
def test_every_way_to_write_groups(groups, size) -> None:
    attributes = f", channel_id=1, replica_groups={groups}, to=%a"
    line = Instruction(None, "x", "f32[4]{0}", "all-reduce", "%y", attributes)
    assert group_size(line, 16) == size
