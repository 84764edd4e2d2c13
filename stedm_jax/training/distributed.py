"""Start of several processes that train together; nothing happens on a single machine."""

import os
from collections.abc import Mapping

import jax

from stedm_jax.errors import UserError

COORDINATOR, PROCESSES, PROCESS = "STEDM_COORDINATOR", "STEDM_PROCESSES", "STEDM_PROCESS_ID"


def start(coordinator: str = "", processes: int = 0, process: int = -1) -> bool:
    """Joins the other processes if there are any; call before anything else of JAX. True when it did.

    In this order: the arguments, the environment (STEDM_COORDINATOR=host:port, STEDM_PROCESSES,
    STEDM_PROCESS_ID), SLURM with more than one task, a TPU pod with more than one worker.

    Raises:
      UserError: a coordinator without the number of processes or of this one; or others cannot be reached.
    """
    env = os.environ
    coordinator = coordinator or env.get(COORDINATOR, "")
    try:
        if coordinator:
            processes = processes or int(env.get(PROCESSES, "0"))
            process = process if process >= 0 else int(env.get(PROCESS, "-1"))
            if processes < 1 or not 0 <= process < processes:
                raise UserError(
                    f"A coordinator ({coordinator}) was given, but {PROCESSES}={processes} and "
                    f"{PROCESS}={process} do not say which of how many processes this is; set both "
                    f"(the numbers count from 0)."
                )
            jax.distributed.initialize(coordinator, processes, process)
        elif _several(env):
            jax.distributed.initialize()
        else:
            return False
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes could not find one another ({error}). Check that the coordinator "
            f"{coordinator or 'of the scheduler'} can be reached from every host and that all were started."
        ) from error
    return True


def _several(env: Mapping[str, str]) -> bool:
    slurm = "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", "1")) > 1
    pod = len([name for name in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]) > 1
    return slurm or pod or int(env.get("MEGASCALE_NUM_SLICES", "1")) > 1
