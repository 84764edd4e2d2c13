from stedm_jax.bench.ceiling import CALLS, ceiling
from stedm_jax.bench.timing import Times, alternate


class Clock:
    """A clock that only the contenders move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def contenders(clock, costs, order):
    def make(name):
        remaining = iter(costs[name])

        def call():
            order.append(name)
            clock.now += next(remaining)

        return call

    return {name: make(name) for name in costs}


def test_contenders_take_turns_and_the_first_call_is_not_counted():
    clock, order = Clock(), []
    costs = {"a": [100.0, 1.0, 3.0, 2.0], "b": [50.0, 5.0, 4.0, 9.0]}
    times = alternate(contenders(clock, costs, order), 0.0, rounds=3, clock=clock, cpu_clock=clock)
    assert order == ["a", "b"] * 4
    assert times["a"].wall == [1.0, 3.0, 2.0] and times["b"].wall == [5.0, 4.0, 9.0]
    assert (times["a"].least, times["a"].median, times["b"].median) == (1.0, 2.0, 5.0)


def test_no_round_begins_after_the_time_is_up_and_the_least_number_is_made():
    clock, order = Clock(), []
    times = alternate(
        contenders(clock, {"a": [4.0] * 99}, order), 10.0, rounds=1, clock=clock, cpu_clock=clock
    )
    assert times["a"].wall == [4.0] * 3  # begun at 0, 4 and 8
    times = alternate(
        contenders(clock, {"a": [4.0] * 99}, order), 10.0, rounds=5, clock=clock, cpu_clock=clock
    )
    assert len(times["a"].wall) == 5


def test_processor_time_is_kept_beside_wall_time():
    wall, cpu = Clock(), Clock()

    def call():
        wall.now += 10.0
        cpu.now += 2.0

    times = alternate({"a": call}, 0.0, rounds=2, clock=wall, cpu_clock=cpu)
    assert times["a"].least == 10.0 and times["a"].least_cpu == 2.0


def test_ceiling_is_that_of_the_fastest_product_and_call():
    asked = {}

    def measure(products, seconds, rounds):
        asked.update(products=list(products), rounds=rounds)
        return {"slow": Times([4.0, 3.0], [8.0, 9.0]), "fast": Times([2.0, 1.0], [1.5, 0.5])}

    wall, cpu = ceiling({"slow": lambda: None, "fast": lambda: None}, 100, measure)
    assert (wall, cpu) == (2e6, 4e6)
    assert asked == {"products": ["slow", "fast"], "rounds": CALLS}
