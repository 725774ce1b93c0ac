# SPDX-License-Identifier: Apache-2.0
"""Credentials of addresses: unreadable wherever they could be shown, used where they belong."""

from __future__ import annotations

import pytest

from recipe.ground.secret import address, authorization, hidden, plain, same_place

T = "ghp_S3cret"


@pytest.mark.parametrize(
    "text",
    [
        f"http://bot:{T}@host/vllm.git",
        f"https://{T}@host:8080/x",
        f"fatal: unable to access 'https://bot:{T}@host/x/': 403",
        f"https://a:{T}@one/x https://b:{T}@two/y",
        f"https://bot:p@{T}@host/x",
        f"https://host/x?private_token={T}&y=1",
        f"https://host/x?a=1&X-Amz-Signature={T}",
        f"ssh://bot:{T}@host/x",
        f"ftp://{T}@host/x",
        f"Authorization: Basic {T}",
        f'{{"origin": "git+https://{T}@host/x"}}',
    ],
)
def test_no_credential_is_left_in_a_text(text: str) -> None:
    assert T not in hidden(text)
    assert "***" in hidden(text)
    assert hidden(hidden(text)) == hidden(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/vllm-project/vllm.git",
        "ssh://git@host/x.git",
        "git@github.com:vllm-project/vllm.git",
        "vllm-sm12x maintainers <maintainers@vllm-sm12x.example>",
        "https://host/path@2/x?page=3",
        "see https://host/a\nand mail me@example.org",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert hidden(text) == text


def test_an_address_is_asked_without_what_proves_who_asks() -> None:
    url = f"https://bot%40x:{T}@host:8443/simple?token=kept"
    assert address(url) == "https://host:8443/simple?token=kept"
    assert plain(url) == "https://host:8443/simple?token=***"
    assert authorization("http://a%40b:c@host/x") == "Basic YUBiOmM="
    assert authorization("http://host/x") is None
    assert address("git@host:x.git") == "git@host:x.git"


def test_a_place_is_scheme_host_and_port() -> None:
    assert same_place("http://u:p@host/simple", "http://host/files/x")
    assert not same_place("http://host/x", "https://host/x")
    assert not same_place("http://host/x", "http://host:81/x")
    assert not same_place("http://host/x", "http://[bad/x")
