"""PASS, WARN or FAIL, each with its mend."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stedm_jax.common.errors import UserError

VERDICTS = ("PASS", "WARN", "FAIL")


@dataclass(frozen=True)
class Finding:
    """What a check found: a verdict of VERDICTS, what it is about, what was seen, and what to do
    about it."""

    verdict: str
    name: str
    seen: str
    mend: str = ""


def ok(name: str, seen: str) -> Finding:
    """All is well."""
    return Finding("PASS", name, seen)


def warn(name: str, seen: str, mend: str) -> Finding:
    """A run is possible and may be slow, or end early."""
    return Finding("WARN", name, seen, mend)


def fail(name: str, seen: str, mend: str) -> Finding:
    """A run would fail."""
    return Finding("FAIL", name, seen, mend)


def checked(name: str, check: Callable[[], Finding | Iterable[Finding]]) -> list[Finding]:
    """What a check finds; what it raises is a finding too."""
    try:
        found = check()
        return [found] if isinstance(found, Finding) else list(found)
    except UserError as error:
        return [fail(name, str(error), "as it says")]
    except Exception as error:  # a check that breaks must not hide the others
        return [
            fail(
                name, f"could not be checked ({type(error).__name__}: {error})", "see what it says"
            )
        ]


def lines(finding: Finding) -> list[str]:
    """A finding as text."""
    out = [f"{finding.verdict}  {finding.name:<14}{finding.seen}"]
    if finding.verdict != "PASS" and finding.mend and finding.mend != "as it says":
        out.append(f"      {'mend':<14}{finding.mend}")
    return out
