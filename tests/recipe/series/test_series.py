# SPDX-License-Identifier: Apache-2.0
"""series.txt and the headers together: one state for every topic on every base, or an error."""

from __future__ import annotations

import pytest

from tests.recipe.world import World


def add(world: World, name: str, **trailers: str) -> None:
    content = world.upstream.patch({f"vllm/{name}.txt": b"new\n"}, **{"Topic": name, **trailers})
    world.upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    world.add_patch(f"{name}.patch", content)


def refused(world: World) -> str:
    """The message of the config error; nothing may have been fetched or written."""
    done = world.run("plan")
    assert done.status == 2, done.err
    assert done.next
    assert world.index.asked == []
    assert not world.cache.exists()
    return done.err


def line(world: World, name: str, trailer: str) -> int:
    """Where a patch of this world has a trailer."""
    lines = (world.root / "patches" / "vllm" / f"{name}.patch").read_text().split("\n")
    return next(n for n, text in enumerate(lines, 1) if text.startswith(f"{trailer}: "))


def write_series(world: World, text: str) -> None:
    (world.root / "series.txt").write_text(text, encoding="utf-8")


def test_comments_and_blank_groups_are_skipped(world: World) -> None:
    add(world, "one")
    add(world, "two")
    write_series(world, "# first\n\nvllm/two.patch # why\n\n# second\n  vllm/one.patch  \n")
    plan = world.good("plan", "--json").document
    assert [row["path"] for row in plan["patches"]] == ["vllm/two.patch", "vllm/one.patch"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vllm/lost.patch", "series.txt:3: patches/vllm/lost.patch doesn't exist"),
        ("vllm/one.patch", "series.txt:3: vllm/one.patch stands twice (first on line 2)"),
        ("other/one.patch", "series.txt:3: other/one.patch is not under vllm or deepgemm"),
        ("vllm/../../one.patch", "series.txt:3: vllm/../../one.patch is not under"),
        ("/etc/passwd", "series.txt:3: /etc/passwd is not under"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(world: World, line: str, said: str) -> None:
    add(world, "one")
    write_series(world, f"# The order\nvllm/one.patch\n{line}\n")
    assert said in refused(world)
    write_series(world, "vllm/one.patch\n")
    world.good("plan")


def test_a_patch_in_no_line_is_named(world: World) -> None:
    add(world, "one")
    write_series(world, "# none\n")
    message = refused(world)
    assert "patches/vllm/one.patch is in no line of series.txt" in message
    assert "add the line 'vllm/one.patch'" in message


def test_two_files_of_a_topic_on_one_base_are_refused(world: World) -> None:
    add(world, "one", Bases=">=9,<9.2", Topic="shared")
    add(world, "two", Bases=">=9.1", Topic="shared")
    message = refused(world)
    assert "topic shared is resolved 2 times on v9.1.0" in message
    assert f"patches/vllm/one.patch:{line(world, 'one', 'Bases')} (Bases: <9.2,>=9)" in message
    assert f"patches/vllm/two.patch:{line(world, 'two', 'Bases')} (Bases: >=9.1)" in message


def test_a_topic_without_a_state_on_a_base_is_refused(world: World) -> None:
    add(world, "one", Bases=">=9.2")
    assert "topic one is unresolved on v9.1.0" in refused(world)


def test_a_file_that_applies_where_upstream_has_it_is_refused(world: World) -> None:
    add(world, "one", Applied_Upstream="9.0")
    assert "topic one is resolved 2 times on v9.1.0" in refused(world)


@pytest.mark.parametrize(
    ("trailers", "state", "why"),
    [
        ({"Bases": ">=9"}, "applies", "vllm/one.patch is for >=9"),
        ({"Bases": "<9", "Applied_Upstream": "9.1"}, "upstreamed", "upstream has it since v9.1"),
        ({"Bases": ">=10", "Not_Needed": "<10"}, "not-needed", "not needed on <10"),
    ],
)
def test_each_state_is_told_with_its_reason(
    world: World, trailers: dict[str, str], state: str, why: str
) -> None:
    add(world, "one", **trailers)
    (row,) = world.good("plan", "--json").document["topics"]
    assert (row["topic"], row["state"]) == ("one", state)
    assert why in row["why"]
    assert row["patch"] == ("vllm/one.patch" if state == "applies" else None)


def test_a_test_file_that_is_not_there_is_refused(world: World) -> None:
    add(world, "one", Tests="tests/patched/test_lost.py")
    said = "Tests: tests/patched/test_lost.py doesn't exist"
    assert f"patches/vllm/one.patch:{line(world, 'one', 'Tests')}: {said}" in refused(world)


def test_a_topic_in_two_upstreams_is_refused(world: World) -> None:
    add(world, "one")
    (world.root / "patches" / "deepgemm").mkdir()
    content = (world.root / "patches" / "vllm" / "one.patch").read_bytes()
    (world.root / "patches" / "deepgemm" / "one.patch").write_bytes(content)
    write_series(world, "vllm/one.patch\ndeepgemm/one.patch\n")
    message = refused(world)
    at = line(world, "one", "Topic")
    assert f"patches/vllm/one.patch:{at}, patches/deepgemm/one.patch:{at}" in message


def test_the_digest_changes_with_the_order_a_patch_and_an_overlay_file(world: World) -> None:
    def digest() -> str:
        return str(world.good("plan", "--json").document["patchset_digest"])

    add(world, "one")
    add(world, "two")
    seen = [digest()]
    assert digest() == seen[0]
    write_series(world, "vllm/two.patch\nvllm/one.patch\n")
    seen.append(digest())
    laid = world.add_overlay("vllm/sm12x/new.py", b"1\n")
    seen.append(digest())
    laid.write_bytes(b"2\n")
    seen.append(digest())
    laid.chmod(0o755)
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert all(one.startswith("sm12x-patchset-v1:") for one in seen)
