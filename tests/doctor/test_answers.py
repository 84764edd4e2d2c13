import jax
import jax.numpy as jnp
import pytest

from stedm_jax.doctor import answers

ANSWER = ({"arguments": 1.0}, "HloModule x\n")


def test_an_answer_comes_back_and_a_damaged_one_does_not(tmp_path) -> None:
    file = tmp_path / "cache" / "one.json.gz"
    assert answers.recall(file) is None
    answers.keep(file, ANSWER)
    assert answers.recall(file) == ANSWER
    file.write_bytes(file.read_bytes()[:-7])
    assert answers.recall(file) is None


def test_another_program_pod_version_or_option_is_kept_elsewhere(monkeypatch) -> None:
    file = answers.kept_file("cache", "program", "v5e:4x4")
    assert file == answers.kept_file("cache", "program", "v5e:4x4")
    others = [
        answers.kept_file("cache", "other", "v5e:4x4"),
        answers.kept_file("cache", "program", "v5e:2x2"),
    ]
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_something")
    others.append(answers.kept_file("cache", "program", "v5e:4x4"))
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    monkeypatch.setattr(answers.importlib.metadata, "version", lambda name: "9.9")
    others.append(answers.kept_file("cache", "program", "v5e:4x4"))
    assert len({file, *others}) == 5


def test_a_compiled_program_says_what_memory_it_needs() -> None:
    weights, images = (jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (64, 16))
    step = jax.jit(lambda w, x: w - x.T @ (x @ w), donate_argnums=0)
    facts, text = answers.ask(step.trace(weights, images).lower())
    assert facts["arguments"] == (64 + 16) * 64 * 4
    assert facts["outputs"] == 0  # the new weights take the place of the old ones
    assert facts["xla_flops"] >= 2 * 2 * 16 * 64 * 64 and facts["xla_bytes"] > facts["arguments"]
    assert facts["compile_seconds"] > 0 and text.startswith("HloModule")


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (18.01G) exceeds available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.01G of 15.75G hbm. "
        "Exceeded by 2.26G.",
    ],
)
def test_a_refusal_says_how_much_memory_was_wanted(text) -> None:
    facts = answers.facts_of_refusal(text)
    assert facts["refused"] == text and facts["needed"] == pytest.approx(18.01 * 2**30)


def test_a_refusal_of_the_compiler_is_an_answer() -> None:
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: something else\nand more")

    facts, text = answers.ask(Lowered())
    assert (facts["refused"], facts["needed"], text) == ("INTERNAL: something else", 0.0, "")
