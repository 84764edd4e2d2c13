"""Compiles one program for a pod that is not there, in a process of its own.

So Ctrl-C ends it at once (the compiler itself does not listen), what the compiler took is given
back, and a compiler that is killed for want of memory, or that crashes, is an answer and not the
end of the doctor.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError

PULSE = 20.0
"""Seconds between signs of life."""
MEMORY = 15e9
"""Bytes that the compiler takes for a full-size step, at most, as seen."""


@dataclass(frozen=True)
class Request:
    """What to compile: `config` with its global batches set, `part` of programs.PARTS, for
    `topology`.

    Attributes:
      workdir: where {workdir} points.
      text_folder: where the module is kept as text; "": nowhere.
      cache: where what the compiler says is kept for the next time; "": nowhere.
    """

    config: Any
    workdir: str
    topology: str
    part: str
    text_folder: str = ""
    cache: str = ""


def work(pipe: Any, request: Request) -> None:
    """The process: sends ("phase", text) as it goes, then ("account", Account), ("error", text) or
    ("broken", text)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the doctor to end this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(
        OSError
    ):  # where memory runs out, this is what is killed, and no training beside it
        Path("/proc/self/oom_score_adj").write_text("800")
    try:
        pipe.send(("account", _account(request, lambda text: pipe.send(("phase", text)))))
    except UserError as error:
        pipe.send(("error", str(error)))
    except Exception:
        pipe.send(("broken", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _account(request: Request, say: Callable[[str], None]) -> Any:
    import jax

    from stedm_jax.common.flop_counts import traced_flops
    from stedm_jax.doctor import kept
    from stedm_jax.doctor.account import Account, facts_of, read_facts
    from stedm_jax.doctor.chips import topology_devices
    from stedm_jax.doctor.programs import prepare
    from stedm_jax.training.sharding import make_mesh
    from stedm_jax.workdir import Workdir, write_text

    config = request.config
    devices = topology_devices(request.topology)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    prepared = prepare(config, Workdir(Path(request.workdir)), mesh, request.part)
    account = Account(
        request.part,
        request.topology,
        len(devices),
        dict(mesh.shape),
        prepared.images,
        prepared.held,
    )
    with jax.set_mesh(mesh):
        traced = prepared.trace()
        account.traced = traced_flops(traced.jaxpr) / len(devices)
        lowered = traced.lower()
    program = lowered.as_text()
    name = kept.fingerprint(program, request.topology)
    found = kept.recall(request.cache, name)
    account.kept = found is not None
    if found is None:
        size = f"{len(program) / 1e6:.1f} MB of program, {account.traced / 1e12:.1f} TFLOP a chip"
        said: dict[str, Any]
        say(f"traced: {size}; now the TPU compiler (a full-size step takes 25 minutes of a core)")
        began = time.monotonic()
        try:
            compiled = lowered.compile()
            said, text = facts_of(compiled), compiled.as_text()
        except jax.errors.JaxRuntimeError as error:
            text, said = "", {"refused": str(error).strip() or type(error).__name__}
        said["seconds"] = time.monotonic() - began
        kept.keep(request.cache, name, said, text)
    else:
        said, text = found
        say(f"compiled before, in {said['seconds']:.0f} s; taken from {request.cache}")
    read_facts(account, said, text)
    if request.text_folder and text:
        Path(request.text_folder).mkdir(parents=True, exist_ok=True)
        images = prepared.images // len(devices)
        shape = "" if mesh.shape["fsdp"] == 1 else f"-fsdp{mesh.shape['fsdp']}"
        name = f"{request.topology.replace(':', '-')}-{request.part}-{images}{shape}.txt"
        write_text(Path(request.text_folder) / name, text)
    return account


def compile_apart(
    request: Request, target: Callable[[Any, Any], None] = work, every: float = PULSE
) -> Any:
    """The account of a program, from a process of its own; says what is going on meanwhile.

    Raises:
      UserError: what the process found that the user can mend, or that it was killed.
      KeyboardInterrupt: at once; the process is ended.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(there, request), daemon=True)
    began, doing = time.monotonic(), "reading the configuration and tracing"
    child.start()
    there.close()
    try:
        while True:
            if not here.poll(every):
                print(
                    f"  {doing}, {time.monotonic() - began:.0f} s so far{usage(child.pid or 0)}",
                    flush=True,
                )
                continue
            kind, value = here.recv()
            if kind == "phase":
                doing = "still compiling"
                print(f"  {value}", flush=True)
            elif kind == "error":
                raise UserError(value)
            elif kind == "broken":
                raise RuntimeError(
                    f"compiling {request.part} for {request.topology} failed:\n{value}"
                )
            else:
                return value
    except EOFError:
        child.join()
        raise UserError(_death(request, child.exitcode or 0)) from None
    finally:
        child.kill()
        child.join()


def _death(request: Request, status: int) -> str:
    what = f"The compiler of {request.part} for {request.topology}"
    if status == -signal.SIGKILL:
        return (
            f"{what} was killed, most likely because this machine ran out of memory: a full-size step takes up to "
            f"{MEMORY / 1e9:.0f} GB. End other programs, or run this on a machine with more. What was compiled before "
            "is kept: the same command goes on behind it."
        )
    return (
        f"{what} crashed (status {status}); what it wrote is above. Try once more; if it happens again, look whether "
        "jax and libtpu go together: pip install -e '.[tpu]'"
    )


def usage(pid: int) -> str:
    """Processor time and memory of a process, as Linux tells; "" elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return f" ({seconds:.0f} s of processor time, {memory / 1e9:.1f} GB of memory)"
