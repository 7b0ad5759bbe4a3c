"""Writes what follows from other files: docs/methods.md, docs/atlas/, the README and its copy.

python docs/generate.py            # writes
python docs/generate.py --check    # exits with 1 if something is out of date
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
KINDS = {
    "divergences": "Divergences",
    "logits": "Logits",
    "features": "Features",
    "relations": "Relations",
    "contrastive": "Contrast",
    "teachers": "Teachers and players",
    "weights": "Weights and stages",
    "distributions": "Vocabularies",
    "evaluation": "Fidelity",
}
INTRODUCTION = """\
# Methods

Every method, the paper it is from, the function that is it, a recipe or a miniature that trains
with it, and what holds it to the paper. *Goldens* are numbers of the reference implementation,
values and gradients, under `tests/goldens`. This page is made from `docs/methods.toml`.
"""


class Method(NamedTuple):
    """A row of the catalogue."""

    kind: str
    key: str
    name: str
    function: str
    checks: tuple[str, ...]
    paper: str = ""
    arxiv: str = ""
    recipe: str = ""
    miniature: str = ""


def load(path: Path = ROOT / "docs" / "methods.toml") -> list[Method]:
    """The rows of the catalogue, in its order."""
    kinds = tomllib.loads(path.read_text())
    return [
        Method(kind, key, **{**row, "checks": tuple(row["checks"])})
        for kind, rows in kinds.items()
        for key, row in rows.items()
    ]


def methods_page(methods: list[Method]) -> str:
    """docs/methods.md."""
    parts = [INTRODUCTION]
    for kind, title in KINDS.items():
        rows = [
            (m.name, paper(m), f"[`{m.function}`][]", trained(m), checks(m))
            for m in methods
            if m.kind == kind
        ]
        head = ("method", "paper", "function", "recipe", "checked by")
        parts.append(f"## {title}\n\n{table(head, rows)}")
    return "\n".join(parts)


def readme_table(methods: list[Method]) -> str:
    """A line for each kind, a link for each of its methods with a paper."""
    rows = [
        (title, ", ".join(link(m) for m in methods if m.kind == kind))
        for kind, title in KINDS.items()
    ]
    return table(("kind", "methods"), rows)


def atlas_pages() -> dict[Path, str]:
    """A page for each family of the atlas that has results."""
    from kdjax.atlas.page import page, read_summaries

    results = ROOT / "benchmarks" / "results" / "atlas"
    families = sorted({path.parent.name for path in results.glob("*/*.json")})
    pages = ROOT / "docs" / "atlas"
    return {pages / f"{name}.md": page(name, read_summaries(name, results)) for name in families}


def as_seen_from_docs(text: str) -> str:
    """A page of the repository with its links as they are from within docs/."""
    for seen, within in (
        ("](docs/", "]("),
        ('src="docs/', 'src="'),
        ("](CONTRIBUTING.md", "](contributing.md"),
        ("](CHANGELOG.md", "](changelog.md"),
        ("[colabs/quickstart.ipynb](colabs/quickstart.ipynb)", "`colabs/quickstart.ipynb`"),
    ):
        text = text.replace(seen, within)
    return text


def between_markers(text: str, new: str) -> str:
    """The text with what stands between the two markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"no {BEGIN} … {END} in the README")
    return f"{before}{BEGIN}\n{new}{END}{after}"


def generated() -> dict[Path, str]:
    """Every generated file, by its path."""
    methods = load()
    readme = between_markers((ROOT / "README.md").read_text(), readme_table(methods))
    return {
        ROOT / "README.md": readme,
        ROOT / "docs" / "index.md": as_seen_from_docs(readme),
        ROOT / "docs" / "contributing.md": as_seen_from_docs(
            (ROOT / "CONTRIBUTING.md").read_text()
        ),
        ROOT / "docs" / "changelog.md": as_seen_from_docs((ROOT / "CHANGELOG.md").read_text()),
        ROOT / "docs" / "methods.md": methods_page(methods),
        **atlas_pages(),
    }


def stale() -> list[Path]:
    """Generated files that are not what they would be now."""
    return [p for p, text in generated().items() if not p.exists() or p.read_text() != text]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def paper(method: Method) -> str:
    """The title, and a link to the paper."""
    if not method.arxiv:
        return method.paper
    return f"{method.paper}, [{method.arxiv}](https://arxiv.org/abs/{method.arxiv})"


def link(method: Method) -> str:
    """The function's bare name, with a link to the paper."""
    name = code(method.function.removeprefix("kdjax."))
    return f"[{name}](https://arxiv.org/abs/{method.arxiv})" if method.arxiv else name


def checks(method: Method) -> str:
    """Goldens and tests."""
    return ", ".join(code(c if c.startswith("tests/") else f"goldens/{c}") for c in method.checks)


def trained(method: Method) -> str:
    """The recipe, and the miniature where recipes cannot hold the claim."""
    return ", ".join(code(path) for path in (method.recipe, method.miniature) if path)


def code(text: str) -> str:
    """Set as code, nothing if empty."""
    return f"`{text}`" if text else ""


def main() -> None:
    """Writes, or checks."""
    outdated = stale()
    if "--check" in sys.argv[1:]:
        sys.exit("out of date: " + ", ".join(p.name for p in outdated) if outdated else 0)
    for path in outdated:
        path.write_text(generated()[path])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
