# SPDX-License-Identifier: Apache-2.0
"""What the verb index puts into a folder: nothing half, nothing changed, wheels alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from recipe.ground.errors import AuditError, RecipeError, UsageError
from recipe.ground.scratch import write_whole
from recipe.wheel.index import folder as index
from recipe.wheel.index.folder import publish
from tests.recipe.packages import pure_wheel
from tests.recipe.world import World

OURS = "vllm-9.1.0+sm12x.4-py3-none-any.whl"
NEXT = "vllm-9.1.0+sm12x.5-py3-none-any.whl"
SPARK = "vllm-9.1.0+sm12x.5-cp38-abi3-manylinux_2_28_aarch64.whl"
MORE = "Requires-Python: <4,>=3.10\nRequires-Dist: torch==2.11.0\n"


def made(folder: Path, name: str, *, content: bytes = b"", more: str = MORE) -> Path:
    """A wheel of that name, in a folder of its own."""
    project, version = name.split("-")[:2]
    place = folder / hashlib.sha256(content + name.encode() + more.encode()).hexdigest()[:8] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    members = {f"{project}/__init__.py": content or f"{name}\n".encode()}
    place.write_bytes(pure_wheel(project, version, members, more))
    return place


def put(place: Path, *wheels: Path) -> index.Published:
    return publish(place / "index", wheels, place / "cache")


def files(place: Path) -> dict[str, bytes]:
    """Everything of the index, by path."""
    root = place / "index"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


class Links(HTMLParser):
    """The files that a PEP 503 page names, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            told = {name: value or "" for name, value in attrs}
            self.found[unquote(told["href"]).partition("#")[0].rsplit("/", 1)[-1]] = told


def check_whole(root: Path, project: str) -> list[str]:
    """The wheels that both pages of a project list, each there with its hash and metadata."""
    page = root / "simple" / project
    document = json.loads((page / "index.json").read_bytes())
    links = Links((page / "index.html").read_text(encoding="utf-8")).found
    check_page(root, document)
    for row in document["files"]:
        told = links[row["filename"]]
        assert told["href"] == f"{row['url']}#sha256={row['hashes']['sha256']}"
        assert told["data-core-metadata"] == f"sha256={row['core-metadata']['sha256']}"
        assert told["data-dist-info-metadata"] == told["data-core-metadata"]
        assert told.get("data-requires-python") == row.get("requires-python")
    names = [row["filename"] for row in document["files"]]
    assert list(links) == names
    return names


def check_page(root: Path, document: dict[str, Any]) -> None:
    """Every file that a JSON page names is there, as the page says."""
    for row in document["files"]:
        content = (root / "files" / row["filename"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["hashes"]["sha256"]
        assert len(content) == row["size"]
        metadata = (root / "files" / f"{row['filename']}.metadata").read_bytes()
        assert hashlib.sha256(metadata).hexdigest() == row["core-metadata"]["sha256"]


def test_versions_and_platforms_stand_side_by_side_and_old_ones_stay(tmp_path: Path) -> None:
    first = put(tmp_path, made(tmp_path, OURS))
    kept = files(tmp_path)[f"files/{OURS}"]

    second = put(tmp_path, made(tmp_path, SPARK), made(tmp_path, NEXT))

    assert (first.added, set(second.added)) == ((OURS,), {SPARK, NEXT})
    assert check_whole(tmp_path / "index", "vllm") == [OURS, SPARK, NEXT]
    assert files(tmp_path)[f"files/{OURS}"] == kept
    document = json.loads(files(tmp_path)["simple/vllm/index.json"])
    assert document["versions"] == ["9.1.0+sm12x.4", "9.1.0+sm12x.5"]
    assert {row["requires-python"] for row in document["files"]} == {"<4,>=3.10"}


def test_the_same_wheels_give_the_same_bytes_in_whatever_order_they_came(tmp_path: Path) -> None:
    wheels = [made(tmp_path, name) for name in (OURS, NEXT, SPARK)]
    put(tmp_path / "a", *wheels)
    for wheel in reversed(wheels):
        put(tmp_path / "b", wheel)
    before = {path: path.stat() for path in (tmp_path / "b" / "index").rglob("*") if path.is_file()}

    put(tmp_path / "b", wheels[0])

    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert {path: path.stat().st_mtime_ns for path in before} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }


def test_other_projects_are_listed_by_their_normalised_names(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, OURS), made(tmp_path, "Small_Dep-1.0-py3-none-any.whl"))

    root = tmp_path / "index" / "simple"
    listed = json.loads((root / "index.json").read_bytes())["projects"]
    assert listed == [{"name": "small-dep"}, {"name": "vllm"}]
    assert '<a href="small-dep/">small-dep</a>' in (root / "index.html").read_text(encoding="utf-8")
    assert check_whole(tmp_path / "index", "small-dep") == ["Small_Dep-1.0-py3-none-any.whl"]


def test_an_index_without_a_wheel_is_one(tmp_path: Path) -> None:
    put(tmp_path)
    assert sorted(files(tmp_path)) == ["simple/index.html", "simple/index.json"]


def forged(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that are no wheels, and what is said of each."""
    good = made(folder, OURS).read_bytes()
    contents = {
        "empty": (b"", "not a wheel"),
        "text": (b"not a zip archive", "not a wheel"),
        "cut": (good[:-30], "not a wheel"),
        "flipped": (good.replace(OURS.encode() + b"\n", OURS.encode() + b"?"), "damaged"),
        "other": (made(folder, NEXT).read_bytes(), "says of itself that it is vllm 9.1.0"),
    }
    for place, (content, said) in contents.items():
        path = folder / place / OURS
        path.parent.mkdir()
        path.write_bytes(content)
        yield path, said
    for name in ("vllm.whl", "vllm-1.whl", "x y-1-py3-none-any.whl", "vllm-9.1.0.tar.gz"):
        path = folder / name
        path.write_bytes(good)
        yield path, "not a wheel"


def test_what_is_no_wheel_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, NEXT))
    before = files(tmp_path)
    for path, said in forged(tmp_path / "forged"):
        with pytest.raises(AuditError, match=said):
            put(tmp_path, made(tmp_path, SPARK), path)
        assert files(tmp_path) == before, path


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("Requires-Python: three\n", "can't be read"),
        ("Requires-Python: >=3.10\u00e9\n", "can't be read"),
        ("Name: other\n", None),  # the first one counts
    ],
)
def test_metadata_that_installers_could_not_read_is_refused(
    tmp_path: Path, more: str, said: str | None
) -> None:
    wheel = made(tmp_path, OURS, more=more)
    if said is None:
        put(tmp_path, wheel)
        return
    with pytest.raises(AuditError, match=said):
        put(tmp_path, wheel)


def test_a_name_that_is_published_keeps_its_bytes(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, OURS))
    before = files(tmp_path)

    with pytest.raises(AuditError, match=r"two wheels .* with other bytes"):
        put(tmp_path, made(tmp_path, OURS, content=b"other"))

    assert files(tmp_path) == before


def test_two_wheels_of_one_name_with_other_bytes_are_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path, OURS), made(tmp_path, OURS, content=b"other")
    with pytest.raises(AuditError, match=r"two wheels .* with other bytes"):
        put(tmp_path, one, other)
    assert files(tmp_path) == {}
    assert put(tmp_path, one, one).added == (OURS,)


@pytest.mark.parametrize(
    "name", ["Vllm-9.1.0+sm12x.4-py3-none-any.whl", "vllm-9.1.0+sm12x_4-py3-none-any.whl"]
)
def test_two_names_that_are_one_to_a_disk_or_an_installer_are_refused(
    tmp_path: Path, name: str
) -> None:
    put(tmp_path, made(tmp_path, OURS))
    with pytest.raises(AuditError, match="is the same"):
        put(tmp_path, made(tmp_path, name))


def test_a_published_wheel_that_was_changed_is_named(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, OURS))
    path = tmp_path / "index" / "files" / OURS
    path.write_bytes(made(tmp_path, OURS, content=b"other").read_bytes())
    before = files(tmp_path)

    with pytest.raises(AuditError, match="is not what was published"):
        put(tmp_path, made(tmp_path, NEXT))

    assert files(tmp_path) == before


def test_a_published_wheel_that_is_gone_is_named_with_the_way_out(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, OURS), made(tmp_path, NEXT))
    (tmp_path / "index" / "files" / OURS).unlink()

    with pytest.raises(AuditError, match=r"isn't in .* any more") as caught:
        put(tmp_path)

    (page,) = re.findall(r"rm (\S+)$", caught.value.next)
    Path(page).unlink()
    put(tmp_path)
    assert check_whole(tmp_path / "index", "vllm") == [NEXT]


@pytest.mark.parametrize("page", ["index.json", "index.html"])
@pytest.mark.parametrize("damage", [b"", b"{]", b'{"files": [1]}', b"[" * 100_000])
def test_a_damaged_page_is_written_anew(tmp_path: Path, page: str, damage: bytes) -> None:
    put(tmp_path, made(tmp_path, OURS))
    before = files(tmp_path)
    (tmp_path / "index" / "simple" / "vllm" / page).write_bytes(damage)
    (tmp_path / "index" / "files" / f"{OURS}.metadata").write_bytes(b"x")

    put(tmp_path)

    assert files(tmp_path) == before


def test_a_project_whose_wheels_are_gone_has_no_page(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, OURS), made(tmp_path, "small-1.0-py3-none-any.whl"))
    (tmp_path / "index" / "files" / OURS).unlink()
    (tmp_path / "index" / "simple" / "vllm" / "index.json").unlink()

    put(tmp_path)

    assert [name for name in files(tmp_path) if "vllm/" in name] == []
    assert json.loads(files(tmp_path)["simple/index.json"])["projects"] == [{"name": "small"}]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="something else than an index"):
        put(tmp_path, made(tmp_path, OURS))
    assert sorted(files(tmp_path)) == ["thesis.tex"]


@pytest.mark.parametrize("name", ["files", "simple"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        put(tmp_path, made(tmp_path, OURS))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/index", "/dev/null/index", "x" * 300, "missing.whl"])
def test_a_folder_or_file_that_cannot_be_used_is_said_so(world: World, place: str) -> None:
    wheel = made(world.root, OURS)
    words = ["index", str(world.root / "i"), place] if ".whl" in place else ["index", place]
    done = world.run(*words, *([] if ".whl" in place else [str(wheel)]))
    assert done.status == 2, done.err
    assert done.next
    assert not (world.root / "i").exists()


def test_a_full_disk_changes_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each file that is written, in turn."""
    put(tmp_path, made(tmp_path, OURS))
    published = check_whole(tmp_path / "index", "vllm")
    real, real_copy = write_whole, shutil.copyfile
    left = [0]

    def full(*args: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, os.strerror(28), str(args[-1])[:80])
        return (real_copy if isinstance(args[1], Path) else real)(*args, **named)

    monkeypatch.setattr(index, "write_whole", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    for room in range(20):
        left[0] = room
        try:
            put(tmp_path, made(tmp_path, NEXT), made(tmp_path, SPARK))
        except OSError:
            document = json.loads(files(tmp_path)["simple/vllm/index.json"])
            check_page(tmp_path / "index", document)
            assert [row["filename"] for row in document["files"]] in (
                published,
                [OURS, SPARK, NEXT],
            )
            assert not list((tmp_path / "index").glob(".*"))
            continue
        break
    else:
        pytest.fail("it never ended")
    assert room > 4
    assert check_whole(tmp_path / "index", "vllm") == [OURS, SPARK, NEXT]


def test_what_a_killed_run_left_is_taken_up_by_the_next(world: World) -> None:
    place = world.root / "i"
    wheels = [str(made(world.root, name)) for name in (OURS, NEXT, SPARK)]
    world.kill_when(lambda: list(place.glob("files/*.whl")), "index", str(place), *wheels)

    world.good("index", str(place), *wheels)

    assert check_whole(place, "vllm") == [OURS, SPARK, NEXT]
    assert sorted(path.name for path in place.iterdir()) == ["files", "simple"]


def test_a_reader_never_sees_half(tmp_path: Path) -> None:
    put(tmp_path, made(tmp_path, OURS))
    wheels = [made(tmp_path, f"vllm-9.1.0+sm12x.{n}-py3-none-any.whl") for n in range(5, 25)]
    seen: set[int] = set()
    problems: list[BaseException] = []
    over = threading.Event()

    def look() -> None:
        page = tmp_path / "index" / "simple" / "vllm" / "index.json"
        while not over.is_set():
            try:
                document = json.loads(page.read_bytes())
                check_page(tmp_path / "index", document)
                seen.add(len(document["files"]))
            except BaseException as problem:
                problems.append(problem)
                return

    reader = threading.Thread(target=look)
    reader.start()
    for wheel in wheels:
        put(tmp_path, wheel)
    over.set()
    reader.join()
    assert problems == []
    assert len(seen) > 1


def test_errors_are_told_on_one_line(tmp_path: Path) -> None:
    name = "vllm-1\n[31m-py3-none-any.whl"
    path = tmp_path / name
    path.write_bytes(b"x")
    with pytest.raises(RecipeError) as caught:
        put(tmp_path, path)
    assert caught.value.what.isprintable()
