import pytest

from data_prep.command import Parser
from data_prep.engine.options import add_options, parse_shares, rules_from
from stedm_jax.common.errors import UserError


def rules(*flags, **fixed):
    parser = Parser()
    add_options(parser, tile=64, mpp=1.0, tissue=True)
    return rules_from(parser.parse_args(["--out=x", *flags]), **fixed)


def test_what_is_said_and_what_is_fixed():
    found = rules("--margin=8", "--sample=a:1,glass:3", "--per_slide=10", cover=True, mpp=2.0)
    assert (found.tile, found.margin, found.mpp, found.cover, found.per_slide) == (
        64,
        8,
        2.0,
        True,
        10,
    )
    assert found.shares == (("a", 0.25), ("glass", 0.75))


def test_shares_keep_colons_in_names():
    assert parse_shares("Tumor: Positive:0.5,b:0.5") == (("Tumor: Positive", 0.5), ("b", 0.5))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tile=4"], "--tile=4"),
        (["--margin=-1"], "--margin=-1"),
        (["--mpp=nan"], "--mpp=nan"),
        (["--sample=a:0.5"], "--per_slide belong together"),
        (["--per_slide=5"], "--per_slide belong together"),
        (["--sample=a", "--per_slide=5"], "'a' is not KIND:SHARE"),
        (["--sample=a:1,a:2", "--per_slide=5"], "names a kind twice"),
        (["--sample=a:1", "--per_slide=5", "--glass=0.1"], "--glass is for grids"),
        (["--scheduler=host"], "no address with a port"),
        (["--scheduler=tcp://host"], "no address with a port"),
        (["--scheduler=tcp://host:8786/x"], "no address with a port"),
        (["--stain_target=nowhere.png"], "without --stain_norm"),
        (["--stain_norm=macenko", "--stain_target=nowhere.png"], "is no file"),
    ],
)
def test_wrong_options(flags, says):
    with pytest.raises(UserError, match=says):
        rules(*flags)


@pytest.mark.parametrize(
    "address", ["", "host:8786", "tcp://10.0.0.1:8786", "tls://[::1]:8786", "tcp://a-b.c:1"]
)
def test_addresses_of_schedulers(address):
    rules(f"--scheduler={address}")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out=x", "--tlie=3"], "There is no option --tlie; is --tile meant"),
        (["--tabel=t.csv"], "There is no option --tabel"),
        (["--quite_another"], r"There is no option --quite_another\."),
        (["--out=x", "--tile=abc"], "invalid int value: 'abc'"),
        ([], "The following arguments are required: --out"),
        (["--out=x", "stray"], "Unrecognized arguments: stray"),
    ],
)
def test_a_mistyped_option_is_a_sentence(flags, says):
    parser = Parser(prog="python -m data_prep.x")
    add_options(parser, tile=64, mpp=1.0, tissue=True)
    with pytest.raises(UserError, match=says) as caught:
        parser.parse_args(flags)
    assert str(caught.value).endswith(
        "`python -m data_prep.x --help` lists all."
    ) and "usage" not in str(caught.value)
