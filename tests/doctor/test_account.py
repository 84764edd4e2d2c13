import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.doctor.account import Account, account_lines, pod_table, remedies
from stedm_jax.doctor.chips import CHIPS, Chip, parse_topology
from stedm_jax.doctor.collectives import Traffic
from stedm_jax.settings.load import base_config, read_settings

CHIP = Chip("v5e", 1e9, 1e12, 1e11, 1e10, 2)
HELD = {"parameters": 100_000_000, "optimizer": 200_000_000, "batch": 1_000}


def account(**changes) -> Account:
    values = {
        "part": "train",
        "topology": "v5e:2x2",
        "chips": 4,
        "mesh": {"data": 4, "fsdp": 1},
        "images": 8,
        "held": HELD,
    }
    return Account(**(values | changes))


def settings(*remat: str):
    config = base_config()
    for name in remat:
        config.diffusion[name].remat = True
    return read_settings(config)


def test_the_longest_of_three_times_bounds_the_step() -> None:
    one = account(
        traced=2e11,
        xla_flops=1e11,  # a loop of two iterations: what XLA counts happens twice
        xla_bytes=1.5e9,
        traffic={"all-reduce": Traffic(1.0, 1e9, 1.5e9)},
    )
    assert one.seconds(CHIP) == pytest.approx({"compute": 0.2, "memory": 0.03, "links": 0.15})
    assert one.rate(CHIP) == pytest.approx(8 / 0.2)
    found = one.as_json(CHIP)
    assert found["estimated_images_per_second"] == pytest.approx(8 / 0.2)
    assert (found["wire"], found["verdict"]) == (1.5e9, "PASS")


def test_verdicts() -> None:
    assert account(temporaries=5e8).verdict(CHIP) == "PASS"
    assert account(temporaries=9.5e8).verdict(CHIP) == "WARN"
    assert account(temporaries=1.1e9).verdict(CHIP) == "FAIL"
    assert account(unknown_loops=["while.1"]).verdict(CHIP) == "WARN"


def test_a_program_that_does_not_fit_comes_with_remedies() -> None:
    one = account(refused="RESOURCE_EXHAUSTED", needed=18.01 * 2**30, compile_seconds=7.0)
    assert one.verdict(CHIPS["v5e"]) == "FAIL"
    text = "\n".join(account_lines(one, CHIPS["v5e"], settings()))
    assert "FAIL  does not fit: RESOURCE_EXHAUSTED" in text and "now in 7 s" in text
    assert "unet.remat=true" in text and "batch_per_chip" in text
    assert " 19.34 | 114% | FAIL |" in pod_table([(one, CHIPS["v5e"])])[-1]


def test_another_refusal_is_quoted() -> None:
    lines = account_lines(account(refused="INTERNAL: something else"), CHIP, settings())
    assert "FAIL  the compiler refused: INTERNAL: something else" in lines


def test_remedies_go_with_the_program() -> None:
    words = " ".join(remedies(account(), settings()))
    assert "style.remat=true" in words and "unet.remat=true" in words
    assert "mesh.fsdp=4 (state of 0.07 GB, not 0.30)" in words or "state of 0.08 GB" in words
    assert "batch_per_chip" in words
    assert "remat" not in " ".join(remedies(account(), settings("style", "unet")))
    one = account(part="sampler", images=4, mesh={"data": 1, "fsdp": 4})
    words = " ".join(remedies(one, settings()))
    assert "remat" not in words and "fsdp" not in words and "batch" not in words.split(" with ")[0]


def test_the_account_and_the_table_name_every_part_and_the_estimate() -> None:
    one = account(
        arguments=3.1e8,
        temporaries=2e8,
        traced=2.2e11,
        xla_flops=2.2e11,
        xla_bytes=1e9,
        traffic={"all-reduce": Traffic(1.0, 1e8, 1.5e8)},
        unknown_loops=["while.3"],
    )
    lines = account_lines(one, CHIP, settings())
    words = [line.split() for line in lines]
    for row in (
        ["parameters", "GB", "0.10"],
        ["temporary", "GB", "0.20"],
        ["in", "all", "GB", "0.51"],
        ["TFLOP", "0.22"],
        ["compute", "ms", "220.0"],
        ["all-reduce", "1", "times", "0.10", "GB", "whole", "0.15", "GB", "sent"],
    ):
        assert row in words
    assert "WARN  fits, with little to spare" in lines
    assert "loops counted once, because their number of iterations is unknown: 1" in lines
    _, head, _, row = pod_table([(one, CHIP)])
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert (
        cells
        | {
            "program": "train",
            "pod": "v5e:2x2",
            "chips": "4",
            "images a chip": "2",
            "moving averages GB": "0.00",
            "in all GB": "0.51",
            "of HBM": "51%",
            "GB sent": "0.15",
            "links ms": "15.0",
            "images/s a chip": "9.09",
            "images/s": "36",
        }
        == cells
    )


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
