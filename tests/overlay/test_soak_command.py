# SPDX-License-Identifier: Apache-2.0
"""The soak's command: what it says when it can't run, what it writes, where it runs."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soak_models
import soak_server
from soak_server import Fault, Settings
from vllm.sm12x import soak
from vllm.sm12x.soak import cli
from vllm.sm12x.soak.server import client

PACKAGE = Path(soak.__file__).parent
SHORT = ("--answer-tokens", "24", "--count-tokens", "48", "--requests", "60", "--concurrency", "4")


@contextmanager
def reader(settings: Settings | None = None, context: int = 900) -> Iterator[soak_server.Server]:
    with soak_server.serving(soak_models.Reader(context=context), settings) as server:
        yield server


@contextmanager
def answering(respond: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, body: str) -> None:
    handler.send_response(status)
    handler.end_headers()
    handler.wfile.write(body.encode())


def hear() -> None:
    # A shell's background jobs ignore Ctrl-C, and so do their children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_alone(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The package where nothing of vLLM is: a copy of its folder, Python without site-packages."""
    shutil.copytree(PACKAGE, folder / "soak", ignore=shutil.ignore_patterns("__pycache__"))
    return subprocess.Popen(
        [sys.executable, "-S", "-m", "soak", *arguments],
        cwd=folder, env={"PATH": os.environ["PATH"], **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear,
    )  # fmt: skip


def test_nothing_at_the_address_is_said_with_code_8(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert cli.main([url]) == 8
    said = capsys.readouterr().err
    assert "can't be reached" in said
    assert "Start the server" in said


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>welcome</html>"), (404, "not found"), (200, '{"models": []}'), (200, "[]")],
)
def test_another_kind_of_server_is_told(
    capsys: pytest.CaptureFixture[str], status: int, body: str
) -> None:
    with answering(lambda handler: say(handler, status, body)) as url:
        assert cli.main([url]) == 2
    assert "not an OpenAI-compatible server" in capsys.readouterr().err


def test_a_wrong_key_is_told_and_never_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-the-right-one")
    with reader(Settings(key="sk-right")) as server:
        assert cli.main([server.url]) == 2
    said = capsys.readouterr()
    assert "wants a key" in said.err
    assert "sk-" not in said.err + said.out


def test_a_key_is_sent_and_hidden_where_the_server_repeats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    settings = Settings(key="sk-secret", name="sk-secret-model")
    with reader(settings) as server:
        url, name = server.url, "--api-key-env=MY_KEY"
        assert cli.main([url, name, "--json", "--quiet", *SHORT]) == 0
        out = capsys.readouterr().out
        assert "sk-secret" not in out.replace("sk-secret-model", "")
        assert cli.main([url, name, "--model", "sk-secret"]) == 2
    assert "does not exist" in (said := capsys.readouterr().err)
    assert "The model *** does" in said


def test_a_model_that_is_not_there_is_told_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reader() as server:
        assert cli.main([server.url, "--model", "large"]) == 2
    said = capsys.readouterr().err
    assert "doesn't know the model 'large'" in said
    assert "It lists: small" in said


def test_a_context_that_holds_no_conversation_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reader(context=200) as server:
        assert cli.main([server.url, "--count-tokens", "48"]) == 2
    said = capsys.readouterr().err
    assert "A context of 200 tokens (/v1/models) is too small" in said
    (needed,) = re.findall(r"take (\d+)\.", said)
    with reader(context=int(needed)) as server:
        arguments = [server.url, *SHORT[2:], "--quiet"]
        assert cli.main(arguments) == 0


def test_a_context_larger_than_the_server_s_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with reader() as server:
        assert cli.main([server.url, "--context", "901"]) == 2
    assert "Type 900 or less" in capsys.readouterr().err


def test_a_prompt_that_does_not_fit_ends_the_run_with_what_to_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reader(Settings(says_context=False)) as server:
        assert cli.main([server.url, "--quiet", *SHORT]) == 2
        said = capsys.readouterr().err
        assert "refused a prompt of the run" in said
        assert "maximum context length" in said
        assert "--context 3072" in said
        assert cli.main([server.url, "--quiet", "--context", "900", *SHORT]) == 0


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://name:word@host:1", "http://h:99999"])
def test_an_address_that_is_none_is_told(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert cli.main([url]) == 2
    assert "word" not in capsys.readouterr().err.replace("password", "")


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        ("https://host/api/v1/chat/completions", "https://host:443/api/v1"),
    ],
)
def test_an_address_is_taken_as_people_type_it(typed: str, url: str) -> None:
    assert client.read_address(typed).url == url


@pytest.mark.parametrize(
    "arguments",
    [
        ["--requests", "39"], ["--concurrency", "0"], ["--depths", "0.5,1.5"], ["--minutes", "0"],
        ["--extra-body", "[]"], ["--html", "no/such/folder/page.html"], ["--reqests", "60"],
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["http://localhost:1", *arguments])
    assert ended.value.code == 2


def test_a_strict_server_without_a_chat_template_is_asked_as_it_wants(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(strict=True, chat=False, logprobs=False, cold=False)
    with reader(settings) as server:
        assert cli.main([server.url, "--json", "--quiet", *SHORT]) == 0
    found = json.loads(capsys.readouterr().out)["server"]
    assert found["endpoint"] == "completions"
    assert found["features"] == ["stream_options"]


def test_the_page_has_the_answers_and_runs_nothing_of_theirs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "soak.html"
    settings = Settings(fault=Fault.GARBLED, after=40, name="<script>alert(1)</script>")
    with reader(settings) as server:
        assert cli.main([server.url, "--html", str(page), *SHORT]) == 7
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "Answers go wrong" in text
    assert text.count("<h3>Request") >= 5
    assert not re.search(r"""(src|href)=["']?http""", text)
    assert "Answers go wrong" in capsys.readouterr().out


def test_it_runs_by_its_folder_alone_and_loads_only_the_standard_library(tmp_path: Path) -> None:
    with reader() as server, run_alone(tmp_path, server.url, *SHORT) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "No wrong answer: 60 requests" in out
    assert "quiet" in err
    assert "Traceback" not in err


def test_importing_it_loads_no_torch(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "soak")
    code = "import sys, soak.cli; print(sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not {"torch", "vllm", "aiohttp", "numpy"} & set(eval(done.stdout))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_it_found(tmp_path: Path, sent: signal.Signals) -> None:
    arguments = ("--requests", "4000", "--json", "--answer-tokens", "24", "--count-tokens", "48")
    with reader() as server, run_alone(tmp_path, server.url, *arguments) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " load " in line:
                break
        process.send_signal(sent)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    found = json.loads(out)
    assert found["interrupted"]
    assert found["verdict"] == "right"
    assert 60 < found["requests"] < 4000


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    was = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with reader() as server, run_alone(tmp_path, server.url, *SHORT) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if " load " in line:
                    break
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGHUP, was)
    assert process.returncode == 0


def test_minutes_end_a_run_that_has_no_other_end(capsys: pytest.CaptureFixture[str]) -> None:
    with reader() as server:
        arguments = ["--minutes", "0.05", "--json", "--quiet", *SHORT[:4]]
        assert cli.main([server.url, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["requests"] is None


def test_a_long_run_has_rounds_and_goes_back_to_its_first_prompts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with reader() as server:
        arguments = ["--requests", "330", "--json", "--quiet", *SHORT[:4]]
        assert cli.main([server.url, *arguments]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert {a["round"] for a in answers} >= {0, 1}
    firsts = {a["prompt"] for a in answers if a["round"] == 0}
    seconds = {a["prompt"] for a in answers if a["round"] == 1 and a["phase"] == "load"}
    anchors = {a["prompt"] for a in answers if a["round"] == 1 and a["phase"] == "after"}
    assert anchors <= firsts
    assert not seconds & firsts


def test_the_figures_are_of_what_was_sent(capsys: pytest.CaptureFixture[str]) -> None:
    with reader() as server:
        assert cli.main([server.url, "--json", "--quiet", *SHORT]) == 0
        served = server.engine.number
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == served == 60
    by_phase = {row["phase"]: row for row in found["figures"]}
    load = [a for a in found["answers"] if a["phase"] == "load"]
    assert by_phase["load"]["requests"] == len(load)
    assert by_phase["load"]["generated"] == sum(a["generated"] for a in load)
    assert max(a["in_flight"] for a in load) > 1
    assert all(a["in_flight"] == 1 for a in found["answers"] if a["phase"] in ("quiet", "after"))
