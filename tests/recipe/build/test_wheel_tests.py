# SPDX-License-Identifier: Apache-2.0
"""The tests a build runs on its wheel: in a new environment, and their result decides."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recipe import small
from tests.recipe.packages import pure_wheel
from tests.recipe.server import serve
from tests.recipe.world import Done, World, make_world

ENVIRONMENT = """\
[[environment]]
bases = ">=9"
names = ["smalldep"]
extra = ["pytest", "pytest-xdist"]
"""
GOOD = """\
import os
import pathlib

import smalldep
import torch
import vllm
import vllm._version


def test_the_wheel_is_the_one_under_test():
    assert vllm.__version__ == "9.1.0+sm12x.4"
    assert torch.__version__ == "2.11.0"
    assert os.environ["SM12X_BASE"] == "9.1.0"
    patched = pathlib.Path(os.environ["SM12X_TREE"], "vllm", "model.py").read_text()
    pristine = pathlib.Path(os.environ["SM12X_PRISTINE"], "vllm", "model.py").read_text()
    assert patched == pathlib.Path(vllm.__file__).with_name("model.py").read_text()
    assert patched != pristine
"""
BAD = "def test_it():\n    assert 'the wheel' == 'another'\n"
SKIPPED = "import pytest\n\ndef test_it():\n    pytest.skip('no GPU')\n"
UNREADABLE = "import nothing_of_this_name\n"


PYTEST = ("pytest", "iniconfig", "packaging", "pluggy", "pygments", "pytest-xdist", "execnet")
SMALLDEP = (
    "smalldep-1.5-py3-none-any.whl",
    pure_wheel("smalldep", "1.5", {"smalldep.py": b""}),
)


def repacked(name: str) -> tuple[str, bytes]:
    """An installed pure distribution as a wheel again: (file name, content)."""
    found = importlib.metadata.distribution(name)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for file in found.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            if file.name in ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json"):
                continue
            archive.writestr(str(file), Path(str(file.locate())).read_bytes())
        rows = "".join(small.record_row(n, archive.read(n)) for n in archive.namelist())
        info = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        place = info.replace("METADATA", "RECORD")
        archive.writestr(place, f"{rows}{place},,\n")
    return f"{name.replace('-', '_')}-{found.version}-py3-none-any.whl", out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A world whose index also has torch, smalldep and pytest with what it needs."""

    world: World

    def write(self, text: str) -> None:
        path = self.world.root / "tests" / "patched" / "test_small.py"
        path.write_text(text, encoding="utf-8")

    def build(self, *args: str) -> Done:
        return self.world.run("build", "--json", "--out", str(self.world.out), *args)

    def unfinished(self) -> list[Path]:
        found = self.world.cache.glob("envs/*")
        return [path for path in found if not (path / "ready.json").exists()]

    def wheels(self) -> list[str]:
        """Every wheel below the output folder, hidden ones too."""
        out = self.world.out
        return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.whl"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Bench]:
    """One world for the module: its environments take long to make."""
    with serve() as index:
        world = make_world(tmp_path_factory.mktemp("testing"), index, code)
        for name in PYTEST:
            index.add(name, *repacked(name))
        for version in ("2.11.0", "2.12.0"):
            member = {"torch/__init__.py": f"__version__ = {version!r}\n".encode()}
            name = f"torch-{version}-py3-none-any.whl"
            index.add("torch", name, pure_wheel("torch", version, member))
        index.add("smalldep", *SMALLDEP)
        (world.root / "tests" / "wheel-env.toml").write_text(ENVIRONMENT, encoding="utf-8")
        world.add_patch("change.patch", world.upstream.patch({"vllm/model.py": b"ours = 1\n"}))
        yield Bench(world=world)


@pytest.fixture
def testing(shared: Bench) -> Bench:
    shutil.rmtree(shared.world.out, ignore_errors=True)
    shared.write(GOOD)
    return shared


def test_offline_without_an_environment_says_so(testing: Bench) -> None:
    assert testing.build("--no-test").status == 0
    shutil.rmtree(testing.world.out)
    shutil.rmtree(testing.world.cache / "envs", ignore_errors=True)

    done = testing.build("--offline")

    assert done.status == 8
    assert "--no-test" in done.next
    assert testing.wheels() == []


def test_a_wheel_whose_tests_pass_is_put_in_its_place(testing: Bench) -> None:
    done = testing.build()

    assert done.status == 0, done.err
    assert done.document["tests"]["passed"] == 1
    assert done.document["tests"]["failed"] == 0
    assert done.document["tests"]["torch"] == "2.11.0"
    assert testing.wheels() == [done.document["wheel"]]
    # The second time nothing is fetched: the environment is kept.
    before = len(testing.world.index.asked)
    assert testing.build("--offline").status == 0
    assert len(testing.world.index.asked) == before


@pytest.mark.parametrize("text", [BAD, UNREADABLE])
def test_a_wheel_whose_tests_fail_is_kept_apart(testing: Bench, text: str) -> None:
    testing.write(text)

    done = testing.build()

    assert done.status == 7, done.err
    assert done.document["error"]["exit_code"] == 7
    assert done.next.startswith("python build.py --base v9.1.0 --no-test")
    (kept,) = testing.wheels()
    assert kept.startswith("failed/")
    assert str(testing.world.out / kept) in done.err
    testing.write(GOOD)
    assert testing.build().status == 0
    assert testing.wheels() == sorted([kept, kept.removeprefix("failed/")])


def test_a_wheel_that_no_test_ran_on_is_not_called_tested(testing: Bench) -> None:
    testing.write(SKIPPED)
    done = testing.build()
    assert done.status == 7
    assert "no test ran" in done.err
    assert done.next
    assert [name for name in testing.wheels() if not name.startswith("failed/")] == []


def test_an_environment_that_was_not_finished_is_made_anew(testing: Bench) -> None:
    """Killed while it is made, then without one of its parts on the index, then as it should be."""
    other = ["build", "--out", str(testing.world.out), "--test-torch", "2.12.0"]
    testing.world.kill_when(testing.unfinished, *other)
    assert len(testing.unfinished()) == 1
    index = testing.world.index
    del index.files["smalldep"]

    done = testing.build("--test-torch", "2.12.0")

    assert done.status == 8, done.err
    assert "the test environment could not be installed" in done.err
    assert "--no-test" in done.next
    assert testing.wheels() == []
    index.add("smalldep", *SMALLDEP)
    testing.write(GOOD.replace('"2.11.0"', '"2.12.0"'))
    done = testing.build("--test-torch", "2.12.0")
    assert done.status == 0, done.err
    assert done.document["tests"]["torch"] == "2.12.0"
    assert testing.unfinished() == []


def test_a_python_the_base_does_not_take_is_refused_at_once(testing: Bench) -> None:
    done = testing.build("--python", "3.9")
    assert done.status == 2
    assert "v9.1.0 needs Python >=3.10" in done.err
    assert done.next
    assert not testing.world.out.exists()


def test_a_base_without_a_test_environment_is_a_config_error(testing: Bench) -> None:
    path = testing.world.root / "tests" / "wheel-env.toml"
    path.write_text(ENVIRONMENT.replace(">=9", ">=10"), encoding="utf-8")
    done = testing.build()
    path.write_text(ENVIRONMENT, encoding="utf-8")
    assert done.status == 2
    assert "tests/wheel-env.toml has 0 environments for v9.1.0" in done.err
    assert done.next
    assert testing.wheels() == []
