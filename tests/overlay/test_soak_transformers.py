# SPDX-License-Identifier: Apache-2.0
"""The soak against `transformers serve`, a server that others wrote, with a small random model.

Skipped where transformers lacks what it serves with: pip install "transformers[serving]" accelerate
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from vllm.sm12x.soak import cli

SHORT = ("--answer-tokens", "8", "--count-tokens", "12", "--requests", "48", "--concurrency", "3")
START_S = 300


def make_model(folder: Path) -> None:
    """A Llama of random weights, and a tokenizer with a token a byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {name: place for place, name in enumerate([*names, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(ids), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        initializer_range=0.35, bos_token_id=None, eos_token_id=256, pad_token_id=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and model's name."""
    for needed in ("torch", "transformers", "fastapi", "uvicorn", "openai", "accelerate"):
        pytest.importorskip(needed)
    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("this transformers has no command")
    make_model(tmp_path / "tiny")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/v1/models", server)
        yield url, str(tmp_path / "tiny")
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server didn't start")


def test_a_server_of_others_is_right_and_held_to_its_words(
    served: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url, model = served
    code = cli.main([url, "--model", model, "--context", "1400", "--json", "--quiet", *SHORT])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["alarms"]) == (0, [])
    assert found["level"]["compare"] == "exact"
    assert found["compared"] > 10
    assert all(answer["outcome"] in ("done", "cancelled") for answer in found["answers"])


def test_a_model_that_it_cannot_load_is_told(
    served: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([served[0], "--model", "nobody/has-it", "--quiet"]) in (2, 8)
    assert "nobody/has-it" in capsys.readouterr().err
