# SPDX-License-Identifier: Apache-2.0
"""Tables in the docs say what the code, the pins and the series say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from benchmarks import draining
from recipe.bases.releases import Base, Bases, load_bases
from recipe.cli.verbs import VERBS
from recipe.ground import errors
from recipe.ground.project import open_project
from recipe.series.lint import lint
from recipe.series.patch import KNOWN
from recipe.series.topics import State, check, resolve
from tests.recipe.docs.pages import ROOT, page

RELEASES = page("docs/releases.md").text
README = page("README.md").text


def own(base: Base) -> str:
    """Upstream's own pin of DeepGEMM."""
    assert base.deepgemm is not None
    return base.deepgemm.pin


def rows(name: str, header: str) -> list[list[str]]:
    """The cells of the rows of the one table of a page that begins with this header."""
    lines = iter(page(name).text.splitlines())
    assert any(line.startswith(f"| {header} |") for line in lines), f"{name}: {header}"
    next(lines)
    return [list(cells(line)) for line in lines_until_blank(lines)]


def lines_until_blank(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def cells(line: str) -> Iterator[str]:
    for cell in line.strip().strip("|").split(" | "):
        yield cell.strip().strip("|").strip()


def minor(base: Base) -> str:
    return ".".join(str(part) for part in base.version.release[:2])


@pytest.fixture(scope="module")
def bases() -> Bases:
    return load_bases(open_project().bases_file)


@pytest.fixture(scope="module")
def applies(bases: Bases) -> dict[str, list[str]]:
    """The releases that each topic applies on, oldest first."""
    patches = check(open_project(), bases)
    found: dict[str, list[str]] = {}
    for base in bases.releases:
        for topic in resolve(patches, base):
            if topic.state == State.APPLIES:
                found.setdefault(topic.name, []).append(base.tag)
    return found


def named(text: str, bases: Bases) -> list[Base]:
    """The releases that a cell names: all, one, several with commas, or a span of them."""
    if text == "all":
        return list(bases.releases)
    known = list(dict.fromkeys(minor(base) for base in bases.releases))
    wanted: list[str] = []
    for part in text.split(", "):
        first, _, last = part.partition(" – ")
        wanted += known[known.index(first) : known.index(last or first) + 1]
    return [base for base in bases.releases if minor(base) in wanted]


def test_the_topic_table_is_the_series(bases: Bases, applies: dict[str, list[str]]) -> None:
    every = [base.tag for base in bases.releases]
    table = {row[0].strip("`"): row[1] for row in rows("docs/releases.md", "topic")}
    said = {name: [base.tag for base in named(text, bases)] for name, text in table.items()}
    assert said == applies
    assert all((text == "all") == (said[name] == every) for name, text in table.items())
    assert len(bases.releases) == 19 and "nineteen pinned releases" in RELEASES


def test_the_figures_are_those_of_lint(bases: Bases) -> None:
    found = {row.base: row for row in lint(open_project(), bases)}
    newest, old = found["v0.33.0"], found["v0.20.2"]
    text = " ".join(RELEASES.split())
    assert f"adds {newest.added} lines to upstream's files and removes {newest.removed}" in text
    assert f"on v0.20.2 {old.added} and {old.removed} (`lint --stats`)" in text


def test_what_the_releases_bring_is_pinned_so(bases: Bases) -> None:
    seen: list[str] = []
    for release, torch, deepgemm, *_ in rows("docs/releases.md", "release"):
        for base in named(release, bases):
            assert base.torch.startswith(f"{torch}."), base.tag
            assert own(base).startswith(deepgemm), base.tag
            seen.append(base.tag)
    assert seen == [base.tag for base in bases.releases]


def test_what_readme_says_this_adds_applies_there(
    bases: Bases, applies: dict[str, list[str]]
) -> None:
    table = rows("README.md", "release")
    for release, *_, adds in table:
        topics = re.findall(r"`([a-z][a-z0-9-]+)`", adds)
        assert topics, adds
        for base in named(release, bases):
            assert all(base.tag in applies[topic] for topic in topics), (base.tag, adds)


def test_readme_tells_of_sparse_attention_on_every_release(bases: Bases) -> None:
    told = [
        base.tag
        for release, *_, adds in rows("README.md", "release")
        if "`sparse-mla`" in adds
        for base in named(release, bases)
    ]
    assert sorted(told) == sorted(base.tag for base in bases.releases)


def test_every_knob_is_on_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "overlay" / "vllm")
    from vllm.sm12x import envs

    assert page("docs/knobs.md").text.endswith("\n\n" + envs.describe())


def test_every_verb_is_listed() -> None:
    listed = [row[0].strip("`") for row in rows("docs/howto/build.md", "verb")]
    assert sorted(listed) == sorted(VERBS)


def test_every_exit_code_is_listed() -> None:
    classes = [one for one in vars(errors).values() if isinstance(one, type)]
    # RecipeError's own is what is said of an error that nobody foresaw.
    codes = {one.exit_code for one in classes if issubclass(one, errors.RecipeError)}
    told = [int(row[0]) for row in rows("docs/howto/trouble.md", "code")]
    assert set(told) == {0, *codes, errors.KILLED, errors.INTERRUPTED} and told == sorted(told)


def test_every_state_and_trailer_is_told() -> None:
    states = [row[0].strip("`") for row in rows("docs/concepts/series.md", "state")]
    assert states == [state.value for state in State]
    text = page("docs/concepts/series.md").text
    assert all(re.search(rf"^(\| `)?{name}: ", text, re.M) for name in KNOWN)


def test_every_argument_of_the_image_is_listed_with_its_default() -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    args = dict(re.findall(r'^ARG (\w+)(?:="?([^"\n]*)"?)?$', docker, re.M))
    del args["TARGETARCH"]  # the engine's own
    table = {row[0].strip("`"): row[1] for row in rows("docs/howto/farm.md", "`--build-arg`")}
    assert set(table) == set(args)
    wrong = {name for name, default in args.items() if default and table[name] != default}
    assert not wrong


def test_the_command_that_ci_runs_is_readmes() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = re.findall(r"^exec (python build\.py test .*)$", script, re.M)
    assert line.replace("python ", "python3 ", 1) in README.splitlines()


def test_what_model_classes_hold_is_what_was_counted() -> None:
    text = page("docs/loading.md").text
    table = text.partition("<!-- draining -->\n")[2].partition("\n<!-- end of draining -->")[0]
    assert table == draining.body(draining.read_kept())
