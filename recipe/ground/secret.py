# SPDX-License-Identifier: Apache-2.0
"""Credentials in addresses: used for what they are for, and shown, written or logged nowhere."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote, urlsplit

# Whatever stands before the last @ of a host: a token may be the user's name.
USERINFO = re.compile(r"(?<=://)[^/?#\s'\"<>`]+@")
# ssh and git name an account there, which is no secret as long as no password follows.
ACCOUNT = re.compile(r"(?:ssh|git(?:\+ssh)?)://[^/?#\s'\"<>:@`]+@")
QUERY = re.compile(
    r"([?&][\w.-]*(?:token|secret|passw|signature|credential|api_?key|\bkey|\bsig|auth)[\w.-]*=)"
    r"[^&\s#'\"<>`]+",
    re.IGNORECASE,
)
HEADER = re.compile(r"(authorization: *(?:basic|bearer|token) +)[\w+/=.~-]+", re.IGNORECASE)
HIDDEN = "***"


def hidden(text: str) -> str:
    """The text with every credential of an address in it made unreadable."""
    if "://" in text:
        accounts = {match.end() for match in ACCOUNT.finditer(text)}
        text = USERINFO.sub(
            lambda found: found[0] if found.end() in accounts else f"{HIDDEN}@", text
        )
        text = QUERY.sub(rf"\g<1>{HIDDEN}", text)
    return HEADER.sub(rf"\g<1>{HIDDEN}", text)


def address(url: str) -> str:
    """The address to ask, without user and password: these go into a header (`authorization`)."""
    parts = split(url)
    return url if parts is None else parts[0]


def plain(url: str) -> str:
    """The address without what proves who asks: it names the same place in every record."""
    return hidden(address(url))


def authorization(url: str) -> str | None:
    """What an HTTP header says for the address's user and password; None without any."""
    parts = split(url)
    if parts is None or not parts[1]:
        return None
    user, _, password = parts[1].partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def split(url: str) -> tuple[str, str] | None:
    """(the address without user and password, these) of an http address; None for another."""
    if not re.match(r"https?://", url, re.IGNORECASE):
        return None
    scheme, rest = url.split("://", 1)
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, host = place.rpartition("@")
    return (f"{scheme}://{host}{rest[len(place) :]}", user) if at else (url, "")


def same_place(url: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    try:
        one, two = urlsplit(address(url)), urlsplit(address(other))
        return (one.scheme, one.hostname, one.port) == (two.scheme, two.hostname, two.port)
    except ValueError:
        return False
