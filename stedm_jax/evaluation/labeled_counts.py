"""Draws of a grid by how many patients they label: each number is an experiment of its own."""

from dataclasses import replace

from stedm_jax.evaluation.report_content import ReportContent


def by_labeled(content: ReportContent) -> dict[str, ReportContent]:
    """The number of labeled patients in words -> the same content with those draws alone.

    Runs without a draw belong to each. With one number, or without draws, all under "".
    """
    counts = sorted({len(patients) for patients in content.draws.values()})
    if len(counts) < 2:
        return {"": content}
    found = {}
    for count in counts:
        draws = {name: each for name, each in content.draws.items() if len(each) == count}
        results = [run for run in content.results if not run.draw or run.draw in draws]
        label = f"{count} labeled patient{'' if count == 1 else 's'}"
        found[label] = replace(content, draws=draws, results=results)
    return found
