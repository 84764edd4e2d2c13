"""Start of several processes that train together; nothing happens where there is one."""

import importlib.util
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax

from stedm_jax.common.errors import UserError
from stedm_jax.training import peers

COORDINATOR, PROCESSES, PROCESS = "STEDM_COORDINATOR", "STEDM_PROCESSES", "STEDM_PROCESS_ID"
HEARTBEAT = "STEDM_HEARTBEAT"
"""Environment variable: seconds without a sign of life after which a process counts as lost
(default 30)."""


@contextmanager
def joined(coordinator: str = "", processes: int = 0, process: int = -1) -> Iterator[None]:
    """Runs its body as one of several processes, if there are any (arguments as for `start`).

    If one of them ends with an error, or is killed, the others end with a message and another
    status than 0.
    """
    if not start(coordinator, processes, process):
        yield
        return
    peers.watch()
    try:
        yield
    except BaseException as error:
        peers.end_all(error)
        raise
    finally:
        jax.distributed.shutdown()


def start(coordinator: str = "", processes: int = 0, process: int = -1) -> bool:
    """Joins the other processes if there are any; call before anything else of JAX. True when it
    did.

    In this order: the arguments, the environment (STEDM_COORDINATOR=host:port, STEDM_PROCESSES,
    STEDM_PROCESS_ID), SLURM with more than one task, a TPU pod with more than one worker (TPU VM or
    GKE).

    Raises:
      UserError: a coordinator without the number of processes or of this one; or others cannot be
        reached.
    """
    env = os.environ
    coordinator = coordinator or env.get(COORDINATOR, "")
    processes = processes or _number(env, PROCESSES, 0)
    process = process if process >= 0 else _number(env, PROCESS, -1)
    if coordinator and (processes < 1 or not 0 <= process < processes):
        raise UserError(
            f"A coordinator ({coordinator}) was given, but {PROCESSES}={processes} and "
            f"{PROCESS}={process} do not say which of how many processes this is; set both (the "
            "numbers count from 0)."
        )
    if processes > 1 and not coordinator:
        raise UserError(
            f"{processes} processes were announced, but no coordinator; set "
            f"{COORDINATOR}=HOST:PORT."
        )
    try:
        heartbeat = _number(env, HEARTBEAT, 30)
        # Ours (signals.py) hears SIGTERM; two handlers would each see half of it.
        jax.config.update("jax_enable_preemption_service", False)
        if coordinator:
            # Not detected: SLURM would leave each process one card, which is wrong for one process
            # a host.
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=heartbeat,
            )
        elif _several(env):
            jax.distributed.initialize(
                local_device_ids=_cards(env), heartbeat_timeout_seconds=heartbeat
            )
        else:
            return False
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes could not find one another ({error}). Check that the coordinator "
            f"{coordinator or 'of the scheduler'} can be reached from every host and that all "
            "were started."
        ) from error
    return True


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(env.get(name, "") or default)
    except ValueError:
        raise UserError(f"{name} is {env[name]!r}, which is no whole number.") from None


def _several(env: Mapping[str, str]) -> bool:
    slurm = "SLURM_STEP_NODELIST" in env and _number(env, "SLURM_NTASKS", 1) > 1
    return slurm or _number(env, "MEGASCALE_NUM_SLICES", 1) > 1 or _workers(env) > 1


def _cards(env: Mapping[str, str]) -> list[int] | None:
    """All cards of this host where SLURM has one task a host; None leaves it to JAX: one card for
    each task."""
    nodes = _number(env, "SLURM_STEP_NUM_NODES", _number(env, "SLURM_NNODES", 0))
    if not nodes or nodes != _number(env, "SLURM_NTASKS", 1):
        return None
    visible = [card for card in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    count = len(visible) or _number(env, "SLURM_GPUS_ON_NODE", 0)
    return list(range(count)) or None


def _workers(env: Mapping[str, str]) -> int:
    """Hosts of a TPU slice: from the environment (GKE), else from the metadata of a TPU VM."""
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if env.get(name):
            return len([host for host in env[name].split(",") if host])
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    if not chips or importlib.util.find_spec("libtpu") is None or "TPU_SKIP_MDS_QUERY" in env:
        return 1
    server = env.get("GCE_METADATA_IP", "metadata.google.internal")
    place = f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    try:
        request = urllib.request.Request(place, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return len(answer.read().decode().split(","))
    except OSError:
        return 1
