"""The words and tables of a report, without markup."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from kdjax.algorithms.guards import SKIPPED, ZEROED
from kdjax.train._report_data import BASELINE, TEACHER, Gain, Run, Statistic, Workdir

NONE = "–"


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text; the first `words` columns are words, the others numbers."""

    head: list[str]
    rows: list[list[str]]
    words: int = 1


def number(value: Statistic | None, form: str, scale: float = 1.0, sign: bool = False) -> str:
    """`mean ± sd`, the second only over several seeds."""
    if value is None:
        return NONE
    text = f"{value.mean * scale:{'+' if sign else ''}{form}}"
    return text if value.sd is None else f"{text} ± {value.sd * scale:{form}}"


def title(work: Workdir) -> str:
    """The config's title, or one made from its data set."""
    dataset = dataset_name(work)
    return str(
        work.config.get("title") or (f"Distillation on {dataset}" if dataset else "Distillation")
    )


def dataset_name(work: Workdir) -> str:
    """The data set as the config calls it."""
    dataset = work.config.get("dataset") or work.config.get("data") or ""
    if isinstance(dataset, Mapping):
        dataset = dataset.get("name") or ""
    return str(dataset)


def summary(work: Workdir) -> str:
    """The outcome as a paragraph."""
    sentences = [_teacher_sentence(work), _student_sentence(work)]
    sentences += [_arm_sentence(work, arm) for arm in work.arms if arm != BASELINE]
    found = [sentence for sentence in sentences if sentence]
    return " ".join(found) or "No run has finished yet."


def tiles(work: Workdir) -> list[tuple[str, str]]:
    """The few numbers to see first, each with its name."""
    arms = [name for name in (TEACHER, BASELINE, work.main) if name in work.names]
    found = []
    for name in dict.fromkeys(arms):
        accuracy = work.statistic(name, "accuracy")
        if accuracy:
            found.append((f"{accuracy.mean:.2%}".replace("%", " %"), f"accuracy, {name}"))
    gain = work.gain(work.main) if work.main not in (None, BASELINE) else None
    if gain:
        found.append((f"{gain.difference.mean * 100:+.2f}", f"points, {work.main} over {BASELINE}"))
    if work.compression:
        found.append((f"{work.compression:.1f}×", "fewer parameters"))
    return found


def results_table(work: Workdir) -> Table:
    """Teacher and students side by side."""
    head = ["run", "seeds", "parameters", "compression", "accuracy, %", "NLL", "ECE, %"]
    head += ["agreement, %", "KL to teacher", "examples/s", "seconds"]
    return Table(head, [_results_row(work, name) for name in work.names if work.results(name)])


def runs_table(work: Workdir) -> Table:
    """How each was trained."""
    rows = []
    for name in work.names:
        for result in work.results(name)[:1]:
            words = [name, result.description or NONE, result.model or NONE]
            rows.append([*words, f"{work.statistic(name, 'steps').mean:,.0f}"])
    return Table(["run", "objective", "model", "steps"], rows, words=3)


def gains_table(work: Workdir) -> Table:
    """Each arm against the baseline, paired by seed."""
    head = ["run", "verdict", "seeds", "difference, points", "standard error"]
    rows = []
    for arm in work.arms:
        gain = work.gain(arm) if arm != BASELINE else None
        if gain:
            error = gain.difference.error
            cells = [str(gain.difference.count), f"{gain.difference.mean * 100:+.2f}"]
            cells.append(NONE if error is None else f"{error * 100:.2f}")
            rows.append([arm, verdict(gain), *cells])
    return Table(head, rows, words=2)


def gradients(work: Workdir) -> str:
    """What the guards of the gradients saw, '' where they had nothing to look for."""
    guards = work.config.get("guards")
    guards = guards if isinstance(guards, Mapping) else {}
    found = []
    if guards.get("spike"):
        found.append(_counted(work, "spikes of the gradient's norm", _spikes))
    if guards.get("non_finite") == "skip":
        found.append(_counted(work, "skipped updates", lambda run: _last(run, SKIPPED)))
    if guards.get("non_finite") == "zero":
        found.append(_counted(work, "zeroed entries of gradients", lambda run: _last(run, ZEROED)))
    return " ".join(found)


def environment_table(work: Workdir) -> Table:
    """Commit, versions, device."""
    return Table(
        ["", ""], [[key, _plain(value)] for key, value in work.environment.items()], words=2
    )


def verdict(gain: Gain) -> str:
    """What the difference allows one to say."""
    if gain.distinguishable is None:
        return "one seed: no estimate of error"
    if not gain.distinguishable:
        return f"not distinguishable from {BASELINE}"
    return ("better" if gain.difference.mean > 0 else "worse") + f" than {BASELINE}"


def _counted(work: Workdir, what: str, count: Callable[[Run], int]) -> str:
    """A number in all, and where it comes from."""
    counts = {name: sum(map(count, work.of(name))) for name in work.names}
    where = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)
    return f"{what[0].upper()}{what[1:]}: {sum(counts.values()):,}{f' ({where})' if where else ''}."


def _spikes(run: Run) -> int:
    return sum(row.get("split") == "spike" for row in run.rows)


def _last(run: Run, counter: str) -> int:
    """The newest value of a counter, of all players together."""
    rows = [row for row in run.rows if row.get("split") == "train"][-1:]
    return sum(
        int(value or 0)
        for row in rows
        for name, value in row.items()
        if name.rpartition("/")[2] == counter
    )


def _teacher_sentence(work: Workdir) -> str:
    accuracy, size = (work.statistic(TEACHER, name) for name in ("accuracy", "parameters"))
    if not accuracy:
        return "The teacher has not finished."
    dataset = dataset_name(work)
    where = f"On {dataset}, the" if dataset else "The"
    reached = number(accuracy, ".2f", 100)
    return f"{where} teacher ({size.mean:,.0f} parameters) reaches {reached} % test accuracy."


def _student_sentence(work: Workdir) -> str:
    sizes = {r.parameters for arm in work.arms for r in work.results(arm)}
    if not sizes:
        return "No student has finished."
    text = ""
    if len(sizes) == 1 and work.compression:
        text = f"The student has {sizes.pop():,} parameters, {work.compression:.1f} times fewer. "
    accuracy = work.statistic(BASELINE, "accuracy")
    if accuracy:
        seeds = "1 seed" if accuracy.count == 1 else f"{accuracy.count} seeds"
        text += (
            f"Trained on the labels alone it reaches {number(accuracy, '.2f', 100)} % ({seeds})."
        )
    return text.strip()


def _arm_sentence(work: Workdir, arm: str) -> str:
    accuracy, gain = work.statistic(arm, "accuracy"), work.gain(arm)
    if not accuracy:
        return ""
    text = f"{arm} reaches {number(accuracy, '.2f', 100)} %"
    if not gain:
        return text + "."
    difference, error = gain.difference.mean * 100, gain.difference.error
    if error is None:
        return f"{text}, a difference of {difference:+.2f} points (one seed: no estimate of error)."
    change = f"{difference:+.2f} points (standard error {error * 100:.2f}, paired by seed)"
    if gain.distinguishable:
        return f"{text}, a difference of {change}."
    return f"{text}, which is {verdict(gain)}: {change}."


def _results_row(work: Workdir, name: str) -> list[str]:
    def cell(field, form, scale=1.0):
        return number(work.statistic(name, field), form, scale)

    results, size = work.results(name), work.statistic(name, "parameters")
    large = work.statistic(TEACHER, "parameters")
    ratio = f"{large.mean / size.mean:.1f}×" if large and size.mean else NONE
    return [
        name,
        str(len(results)),
        f"{size.mean:,.0f}",
        ratio,
        cell("accuracy", ".2f", 100),
        cell("nll", ".4f"),
        cell("ece", ".2f", 100),
        cell("agreement", ".2f", 100),
        cell("mean_kl", ".4f"),
        cell("examples_per_second", ",.0f"),
        cell("seconds", ",.1f"),
    ]


def _plain(value: Any) -> str:
    """A value of the environment in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NONE if value is None else str(value)
