"""What a check finds: PASS, WARN or FAIL, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from stedm_jax.common.errors import UserError


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
      verdict: PASS, WARN (a run is possible and may be slow, or end early) or FAIL (a run would
        fail).
      seen: what was found.
      fix: what to do about it.
      name: what it is about; "": what the check is about.
    """

    verdict: str
    seen: str
    fix: str = ""
    name: str = ""

    def __str__(self) -> str:
        text = f"{self.verdict}  {self.name:<14}{self.seen}"
        return f"{text}\n      {'fix':<14}{self.fix}" if self.fix else text


ok = partial(Finding, "PASS")
warn = partial(Finding, "WARN")
fail = partial(Finding, "FAIL")


def findings_of(name: str, check: Callable[[], Finding | Iterable[Finding]]) -> list[Finding]:
    """What a check finds, with its name; an exception that it raises is a finding too."""
    found: list[Finding] = []
    try:
        result = check()
        for each in [result] if isinstance(result, Finding) else result:
            found.append(each)
    except UserError as error:
        found.append(fail(str(error)))
    except Exception as error:  # a check that breaks must not hide the others
        found.append(fail(f"could not be checked ({type(error).__name__}: {error})"))
    return [replace(each, name=each.name or name) for each in found]
