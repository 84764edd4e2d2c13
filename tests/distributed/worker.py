"""One of several processes (or the only one) that train the toy: python -m tests.distributed.worker
WORKDIR [JSON].

JSON changes: steps, checkpoint_every, eval_every, fsdp, sleep (seconds before each batch),
slow_eval (seconds), start (a folder of checkpoints to start from), cache (of compiled programs),
fails (number of the process that fails at step 8).
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from stedm_jax.common.errors import UserError, explain
from stedm_jax.training import distributed
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.hardware import enable_compile_cache
from stedm_jax.training.loop import Loop
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh, own_rows
from stedm_jax.training.signals import Signals
from tests.training import toy


def run(
    workdir: Path, fsdp=1, sleep=0.0, slow_eval=0.0, start="", cache="", fails=-1, **settings
) -> None:
    if cache:
        enable_compile_cache(cache)
    mesh = make_mesh(fsdp=fsdp)
    rows = own_rows(toy.BATCH, mesh)

    def batches(first: int):
        for step, batch in enumerate(toy.batches(first), first + 1):
            time.sleep(sleep)
            if step == 8 and fails == jax.process_index():
                raise UserError("this host's data are bad")
            yield {name: value[rows] for name, value in batch.items()}
            print(f"fed {step}", flush=True)

    def eval_batches():
        for batch in toy.eval_batches():
            print("evaluates", flush=True)
            time.sleep(slow_eval)
            yield {name: value[rows] for name, value in batch.items()}

    program = Program(toy.ToyTask(), toy.settings(**settings), mesh)
    given = Checkpoints(Path(start)).read_params() if start else None
    with Signals(workdir) as signals:
        result = Loop(
            program,
            batches=batches,
            eval_batches=eval_batches,
            workdir=workdir,
            seed=3,
            signals=signals,
            visual=lambda: toy.batch_at(0),
            init_params=lambda: given,
            frozen={"scale": np.full(1, 0.5, np.float32)},
        ).train()
    print(f"ended with {result.metrics}", flush=True)


if __name__ == "__main__":
    try:
        with distributed.joined():
            run(Path(sys.argv[1]), **json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
    except BaseException as error:
        said = explain(error)
        if said is None:
            raise
        print(said[0], file=sys.stderr, flush=True)
        sys.exit(said[1])
