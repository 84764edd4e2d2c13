import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from configs.base import get_base
from stedm_jax.common.errors import UserError
from stedm_jax.common.flop_counts import traced_flops
from stedm_jax.doctor.account import Account, facts_of, mends, read_facts
from stedm_jax.doctor.chips import CHIPS, Chip, parse_topology
from stedm_jax.doctor.collectives import Traffic
from stedm_jax.doctor.tables import constancy, memory_table, report, work_table

CHIP = Chip("v5e", 1e9, 1e12, 1e11, 1e10, 2)


def account(**changes) -> Account:
    held = {"parameters": 100_000_000, "optimiser": 200_000_000, "batch": 1_000}
    values = {
        "part": "train",
        "topology": "v5e:2x2",
        "chips": 4,
        "mesh": {"data": 4, "fsdp": 1},
        "images": 8,
    }
    return Account(**{**values, "held": held, **changes})


def test_what_a_compiled_program_tells_of_itself() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    cut, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def step(w, x):
        return w - jax.grad(lambda w: jnp.mean(jnp.square(x @ w)))(w)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32), (16, 64))]
    traced = jax.jit(step, in_shardings=(whole, cut), out_shardings=whole, donate_argnums=0).trace(
        *shapes
    )
    one = account(chips=8)
    compiled = traced.lower().compile()
    read_facts(one, facts_of(compiled), compiled.as_text())
    assert one.arguments == 64 * 32 * 4 + 2 * 64 * 4
    assert one.outputs == 0  # the result takes the place of what was given
    assert traced_flops(traced.jaxpr) / 8 == one.products == 2 * 2 * 2 * 64 * 32
    assert one.wire == 2 * 7 / 8 * 64 * 32 * 4
    assert one.loops == 1.0
    assert one.verdict(CHIP) == "PASS"


def test_the_longest_of_three_times_bounds_the_step() -> None:
    one = account(products=2e11, hbm=3e9, traffic={"all-reduce": Traffic(1.0, 1e9, 1.5e9)})
    assert one.seconds(CHIP) == pytest.approx({"compute": 0.2, "memory": 0.03, "links": 0.15})
    assert one.estimate(CHIP) == pytest.approx(0.2)
    assert one.as_json(CHIP)["estimated_images_per_second"] == pytest.approx(8 / 0.2)


def test_verdicts() -> None:
    assert account(temporaries=5e8).verdict(CHIP) == "PASS"
    assert account(temporaries=9.5e8).verdict(CHIP) == "WARN"
    assert account(temporaries=1.1e9).verdict(CHIP) == "FAIL"
    assert account(unknown_loops=["while.1"]).verdict(CHIP) == "WARN"


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.01G) exceeds "
        "available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.01G of 15.75G hbm. Exceeded by 2.26G.",
    ],
)
def test_a_refusal_says_how_much_was_wanted(text) -> None:
    one = account()
    read_facts(one, {"refused": text, "seconds": 7.0}, "")
    assert one.total == pytest.approx(18.01 * 2**30)
    assert one.verdict(CHIPS["v5e"]) == "FAIL"
    told = "\n".join(report(one, CHIPS["v5e"], get_base()))
    assert "FAIL  does not fit" in told and "unet.remat=true" in told and "batch_per_chip=1" in told
    assert "compiled now in 7 s" in told
    assert memory_table([(one, CHIPS["v5e"])])[-1].endswith("| - | 19.34 | 114% | FAIL |")
    assert work_table([(one, CHIPS["v5e"])])[-1].endswith("| - | - |")


def test_another_refusal_is_told_as_it_is() -> None:
    one = account()
    read_facts(one, {"refused": "INTERNAL: something else\nand more"}, "")
    assert one.verdict(CHIP) == "FAIL"
    assert "the compiler refused: INTERNAL: something else" in "\n".join(
        report(one, CHIP, get_base())
    )


def test_mends_go_with_the_program() -> None:
    config = get_base()
    words = " ".join(mends(account(), CHIP, config))
    assert "unet.remat=true" in words
    assert "mesh.fsdp=4 (cuts 0.30 GB of state by 0.23 GB)" in words
    assert "diffusion.train.batch=4" in words
    config.diffusion.unet.remat = True
    sampler = " ".join(
        mends(account(part="sampler", images=4, mesh={"data": 1, "fsdp": 4}), CHIP, config)
    )
    assert "remat" not in sampler and "fsdp" not in sampler and "batch=" not in sampler


def test_the_report_names_every_part_and_the_estimate() -> None:
    one = account(
        arguments=3.1e8,
        temporaries=2e8,
        products=2.2e11,
        traced=2e11,
        xla_flops=2.3e11,
        xla_bytes=1e9,
        hbm=1e9,
        traffic={"all-reduce": Traffic(1.0, 1e8, 1.5e8)},
    )
    told = "\n".join(report(one, CHIP, get_base()))
    for word in (
        "parameters",
        "optimiser",
        "activations",
        "in all",
        "(1.10 of it)",
        "all-reduce",
        "roofline",
        "PASS",
    ):
        assert word in told
    assert "bound by compute" in told
    held = (
        "| train | v5e:2x2 | 4 | 1 | 2 | 0.10 | 0.20 | - | - | 0.0000 | 0.20 | 0.51 | 51% | PASS |"
    )
    assert memory_table([(one, CHIP)])[-1] == held
    head, _, row = work_table([(one, CHIP)])
    assert "| all-reduce GB sent |" in head and "all-gather" not in head
    assert (
        row
        == "| train | v5e:2x2 | 4 | 1 | 2 | 0.22 | 0.20 | 1 | 0.15 | 220 | 220 | compute | 15.0 | 9.09 | 36 |"
    )


def test_constancy_compares_what_differs_in_the_number_of_chips_alone() -> None:
    def on(chips: int, **changes) -> tuple[Account, Chip]:
        mesh = {"data": chips, "fsdp": 1}
        values = {"images": 2 * chips, "products": 1e12, "temporaries": 1e8}
        return account(
            topology=str(chips), chips=chips, **{"mesh": mesh, **values, **changes}
        ), CHIP

    sent = {"traffic": {"all-reduce": Traffic(1.0, 1e8, 1.5e8)}}
    alone = [on(32, images=32), on(64, mesh={"data": 1, "fsdp": 64}), on(8, refused="too large")]
    assert constancy(
        [on(16, products=1.01e12, **sent), on(4), *alone, on(8, temporaries=0.99e8, **sent)]
    ) == [
        "train, 2 images a chip, fsdp 1, 4 to 16 chips of v5e: a chip's products +0.0 to +1.0 %, "
        "temporaries -1.0 to +0.0 %, sent from nothing"
    ]


@pytest.mark.parametrize("text", ["v5e:4x4", "v5e:1x1", "v5p:2x2x2", "v6e:16x16"])
def test_topologies_that_are_known(text) -> None:
    chip, sides = parse_topology(text)
    assert text == f"{chip.name}:{'x'.join(map(str, sides))}"


@pytest.mark.parametrize("text", ["v5e:3x5", "v6e:32x32", "v5e:2x1"])
def test_slices_that_are_not_offered_are_refused_with_those_that_are(text) -> None:
    with pytest.raises(UserError, match="not offered; slices of v.e have 1x1, .*16x16 chips"):
        parse_topology(text)


@pytest.mark.parametrize(
    "text", ["v5e", "v5e:4", "v5e:4x4x4", "v5p:4x4", "v9:2x2", "v5e:0x4", "v5e:4x-4", "cuda:8"]
)
def test_others_are_refused_with_examples(text) -> None:
    with pytest.raises(UserError, match="v5e:16x16"):
        parse_topology(text)
