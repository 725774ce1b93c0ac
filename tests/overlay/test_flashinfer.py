# SPDX-License-Identifier: Apache-2.0
"""What is told of an installed FlashInfer, held against the layouts of its published wheels."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flashinfer_wheels import NOT_IMPORTED, PINS, WHEELS, install, pairs
from vllm.sm12x.support.flashinfer import FlashInfer, find_flashinfer, flashinfer_v4_shapes

# (kernels, kernels that can hang, without RoPE) by version.
TOLD = {
    "0.6.8.post1": (False, False, False),
    "0.6.11.post2": (False, False, False),
    "0.6.12": (False, False, False),
    "0.6.13": (False, False, False),
    "0.6.14": (True, True, False),
    "0.6.16.post3": (True, True, False),
    "0.6.17": (True, True, False),
    "0.6.18": (True, False, False),
    "0.6.18.post1": (True, False, False),
    "0.7.0.post1": (True, False, True),
    "0.7.1": (True, False, True),
    "0.7.2": (True, False, True),
    "0.7.2.post1": (True, False, True),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are found in before all others."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flashinfer", raising=False)
    return tmp_path


def told(found: FlashInfer) -> tuple[bool, bool, bool]:
    return found.kernels, found.hangs, found.without_rope


def test_every_wheel_that_a_base_pins_is_among_those_looked_at() -> None:
    assert set(TOLD) == set(WHEELS) >= set(PINS.values())


@pytest.mark.parametrize("version", WHEELS)
def test_published_wheels_are_told_by_their_version(site: Path, version: str) -> None:
    install(site, version)
    found = find_flashinfer()
    assert (found.version, told(found), found.problem) == (version, TOLD[version], "")


@pytest.mark.parametrize("version", WHEELS)
def test_the_version_that_a_wheel_says_tells_what_its_files_are(version: str) -> None:
    """The reference is the wheels' own lists: kernels have sources, those without RoPE a table."""
    kernels, _, without_rope = TOLD[version]
    files = WHEELS[version]["files"]
    assert kernels == any("/csrc/sparse_mla_sm120" in name for name in files)
    assert without_rope == ("GLM53_NOPE" in WHEELS[version]["shapes"])


@pytest.mark.parametrize("version", WHEELS)
@pytest.mark.parametrize("where", ["in the package", "in its metadata", "nowhere"])
def test_without_a_version_its_files_decide(site: Path, version: str, where: str) -> None:
    """Only 0.6.18 is taken for one that can hang, as it lies like those before it."""
    install(site, version, says=where == "in the package", metadata=where == "in its metadata")
    found = find_flashinfer()
    assert found.version == (None if where == "nowhere" else version)
    kernels, hangs, without_rope = TOLD[version]
    if where == "nowhere" and version.startswith("0.6.18"):
        hangs = True
        assert "doesn't say its version" in found.danger
    assert told(found) == (kernels, hangs, without_rope)


@pytest.mark.parametrize("version", [v for v in WHEELS if TOLD[v][2]])
@pytest.mark.parametrize("says", [True, False])
def test_kernels_that_moved_once_more_count_as_there(site: Path, version: str, says: bool) -> None:
    package = install(site, version, says=says, metadata=says)
    (package / "mla").rename(package / "sparse")
    (package / "data" / "csrc").rename(package / "data" / "sources")
    assert told(find_flashinfer()) == (True, False, True)
    assert flashinfer_v4_shapes() is None


@pytest.mark.parametrize("version", ["0.7.3", "0.8.0.dev20261201", "1.0.0rc1", "12.1"])
def test_a_version_that_was_not_looked_at_counts_as_serving(site: Path, version: str) -> None:
    package = site / "flashinfer"
    package.mkdir()
    (package / "__init__.py").write_text(NOT_IMPORTED, encoding="utf-8")
    (package / "_build_meta.py").write_text(f'__version__: str = "{version}"\n', encoding="utf-8")
    found = find_flashinfer()
    assert (found.version, told(found)) == (version, (True, False, True))
    assert not found.refuses(rope_dim=64) and not found.refuses(rope_dim=0) and not found.danger


@pytest.mark.parametrize(
    ("version", "like", "expected", "danger"),
    [
        ("0.6.14.dev20260301", "0.6.13", (False, False, False), ""),
        ("0.6.14rc2", "0.6.14", (True, True, False), "the SM12x kernels of FlashInfer 0.6.14rc2"),
        ("0.6.18.dev3+g1a2b3c4", "0.6.17", (True, True, False), "is an early 0.6.18, and up to"),
        ("0.6.18a1", "0.6.18", (True, True, False), "is an early 0.6.18, and up to 0.6.17 its"),
        ("0.6.18.post1.dev2", "0.6.18", (True, False, False), ""),
        ("0.6.18+cu130", "0.6.18", (True, False, False), ""),
        ("0.7.0.dev1", "0.6.18", (True, False, False), ""),
        ("0.7rc1", "0.7.0.post1", (True, False, True), ""),
        ("0.7.1.dev1", "0.7.1", (True, False, True), ""),
    ],
)
def test_of_an_early_release_the_number_tells_nothing_that_came_with_that_release(
    site: Path, version: str, like: str, expected: tuple[bool, bool, bool], danger: str
) -> None:
    package = install(site, like, metadata=False)
    (package / "_build_meta.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
    found = find_flashinfer()
    assert (found.version, told(found)) == (version, expected)
    assert danger in found.danger and bool(danger) == bool(found.danger)


@pytest.mark.parametrize("version", WHEELS)
def test_a_table_of_shapes_is_read_and_a_predicate_is_none(site: Path, version: str) -> None:
    install(site, version)
    table = WHEELS[version]["shapes"].get("DSV4", {})
    expected = frozenset(pairs(table)) if "pairs" in table else None
    assert flashinfer_v4_shapes() == expected
    assert (expected is not None) == version.startswith(("0.6.14", "0.6.16", "0.6.17", "0.6.18"))


@pytest.mark.parametrize(
    "source",
    [
        "_DECODE_DSV4_DISPATCH = frozenset()\n",
        "_DECODE_DSV4_DISPATCH = frozenset(made())\n",
        "_DECODE_DSV4_DISPATCH = frozenset({8, 16})\n",
        "_DECODE_DSV4_DISPATCH = {(h, 128) for h in (8, 16)}\n",
        "_DECODE_DSV4_DISPATCH = frozenset({(8, 'wide')})\n",
        "_DECODE_DSV4_DISPATCH = {(8, [128])}\n",
        "_DECODE_DSV4_DISPATCH = [(8, [128])]\n",
        f"_DECODE_DSV4_DISPATCH = {'-' * 90_000}1\n",  # more than a parser takes
        "_DECODE_DSV4_DISPATCH = Envelope(8, 128)\n",
        "_DECODE_DSV4_DISPATCH: object = None\n",
        "from ._policy import _DECODE_DSV4_DISPATCH\n",
        "this isn't Python\n",
        "",
    ],
)
def test_what_is_no_table_says_nothing_of_shapes(site: Path, source: str) -> None:
    package = install(site, "0.6.18")
    (package / "mla" / "_sparse_mla_sm120.py").write_text(source, encoding="utf-8")
    assert flashinfer_v4_shapes() is None


def editable(site: Path, checkout: Path) -> None:
    """What pip leaves of an editable installation: a path to the checkout, and metadata."""
    install(checkout, "0.7.2.post1", metadata=False)
    (site / "__editable__.flashinfer_python.pth").write_text(f"{checkout}\n", encoding="utf-8")
    metadata = site / "flashinfer_python-0.7.2.post1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flashinfer-python\nVersion: 0.7.2.post1\n", encoding="utf-8"
    )


def test_an_editable_one_is_looked_at_where_its_code_is(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path_factory.mktemp("checkout")
    editable(site, checkout)
    monkeypatch.syspath_prepend(checkout)  # what the .pth file does at start
    assert told(find_flashinfer()) == (True, False, True)
    # Built long ago and updated since: what the code says of itself counts.
    (checkout / "flashinfer" / "_build_meta.py").write_text(
        '__version__ = "0.6.17"\n', encoding="utf-8"
    )
    assert find_flashinfer().version == "0.6.17"
    (checkout / "flashinfer" / "_build_meta.py").write_text(
        '__version__ = "0.0.0+unknown"\n', encoding="utf-8"
    )
    assert find_flashinfer().version == "0.7.2.post1"


def no_init(package: Path) -> None:
    (package / "__init__.py").unlink()


def no_functions(package: Path) -> None:
    (package / "decode.py").unlink()


def a_module_alone(package: Path) -> None:
    package.with_suffix(".py").touch()
    package.rename(package.with_name("elsewhere"))


def endless_version(package: Path) -> None:
    (package / "_build_meta.py").write_text(f'__version__ = "{"9" * 5000}"\n', encoding="utf-8")


def damaged_version(package: Path) -> None:
    (package / "_build_meta.py").write_bytes(b"\xff\xfe\x00")


def damaged_metadata(package: Path) -> None:
    damaged_version(package)
    (metadata,) = package.parent.glob("*.dist-info/METADATA")
    metadata.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("damage", "version", "problem"),
    [
        (no_init, None, "installed in part"),
        (no_functions, None, "installed in part: its package has no decode.py"),
        (a_module_alone, None, "installed in part"),
        (endless_version, "0.7.2.post1", ""),
        (damaged_version, "0.7.2.post1", ""),
        (damaged_metadata, None, ""),
    ],
)
def test_a_damaged_one_is_told_from_what_is_left(
    site: Path, damage: Callable[[Path], None], version: str | None, problem: str
) -> None:
    damage(install(site, "0.7.2.post1"))
    found = find_flashinfer()
    assert found.version == version
    assert problem in found.problem and bool(problem) == bool(found.problem)
    assert told(found) == ((False, False, False) if problem else (True, False, True))
    assert bool(found.refuses(rope_dim=64)) == bool(problem)


def test_none_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = find_flashinfer()
    assert found.refuses(rope_dim=64) == "FlashInfer isn't installed"
    assert told(found) == (False, False, False) and flashinfer_v4_shapes() is None


def test_refusals_name_the_version_that_was_found_and_the_first_that_serves(site: Path) -> None:
    install(site, "0.6.13")
    said = find_flashinfer().refuses(rope_dim=64)
    assert said == "FlashInfer 0.6.13 has no sparse MLA for SM12x, which came with 0.6.14"
    newer = FlashInfer(version="0.6.18", kernels=True, hangs=False, without_rope=False)
    assert newer.refuses(rope_dim=64) == ""
    assert newer.refuses(rope_dim=0) == (
        "FlashInfer 0.6.18 has no sparse MLA without RoPE, which came with 0.7"
    )
