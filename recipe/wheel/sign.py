# SPDX-License-Identifier: Apache-2.0
"""Sign a statement with a key that the user names, and check one, by the key's own tool.

An OpenSSH key signs with ssh-keygen, a minisign key with minisign. No key is read here but for its
first line, which says whose it is.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

from recipe.ground import run, scratch
from recipe.ground.errors import AuditError, MachineError, UsageError

# What the signature is for, so that one made for another purpose doesn't pass (ssh-keygen -n).
NAMESPACE = "vllm-sm12x"
SSH_PUBLIC = (b"ssh-", b"ecdsa-", b"sk-")


class Kind(StrEnum):
    """Whose key it is, by the program that signs with it."""

    SSH = "ssh-keygen"
    MINISIGN = "minisign"


SUFFIX = {Kind.SSH: ".sig", Kind.MINISIGN: ".minisig"}
PACKAGE = {Kind.SSH: "openssh-client", Kind.MINISIGN: "minisign"}


def kind_of(key: Path, option: str) -> Kind:
    """UsageError if the file isn't there or is no key, MachineError if its program isn't."""
    try:
        with key.open("rb") as stream:
            begin = stream.read(200)
    except OSError as error:
        raise no_key(key, option, error.strerror or "it can't be read") from None
    if begin.startswith((b"-----BEGIN OPENSSH PRIVATE KEY-----", *SSH_PUBLIC)):
        kind = Kind.SSH
    elif begin.startswith(b"untrusted comment:"):
        kind = Kind.MINISIGN
    else:
        raise no_key(key, option, "it is no key of OpenSSH or minisign")
    if shutil.which(kind) is None:
        raise MachineError(
            f"{option} {key}: {kind} is not installed",
            means="The key's own program signs and checks.",
            next=f"apt-get install {PACKAGE[kind]}",
        )
    return kind


def no_key(key: Path, option: str, why: str) -> UsageError:
    return UsageError(
        f"{option} {key}: {why}",
        means="Nothing was signed or checked.",
        next=f"name a key: {option} ~/.ssh/id_ed25519"
        if option == "--sign-key"
        else f"name a public key: {option} ~/.ssh/id_ed25519.pub",
    )


def try_out(key: Path, cache: Path) -> None:
    """Sign something of no worth: a key that can't be used is said before minutes of work."""
    with scratch.folder(cache, "sign") as folder:
        (folder / "nothing").touch()
        sign(folder / "nothing", key)


def sign(path: Path, key: Path) -> Path:
    """Sign a file; the signature's, beside it. UsageError if the key can't be used."""
    kind = kind_of(key, "--sign-key")
    signature = path.with_name(path.name + SUFFIX[kind])
    signature.unlink(missing_ok=True)
    key = key.absolute()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key), path.name]
    if kind == Kind.MINISIGN:
        command = ["minisign", "-S", "-s", str(key), "-m", path.name, "-x", signature.name]
    try:
        run.output(command, cwd=path.parent)
    except run.CommandFailed as error:
        why = (error.stderr.strip() or error.stdout.decode(errors="replace").strip())[-300:]
        raise no_key(key, "--sign-key", f"{kind} can't sign with it: {why}") from None
    return signature


def check(path: Path, key: Path, cache: Path) -> None:
    """AuditError unless a file was signed with the private half of a public key."""
    kind = kind_of(key, "--key")
    signature = path.with_name(path.name + SUFFIX[kind])
    if not path.is_file() or not signature.is_file():
        lacking = signature if path.is_file() else path
        raise AuditError(
            f"{lacking.name} is not beside the wheel",
            means=f"So nothing says that the owner of {key.name} made it.",
            next="get it from where the wheel is from, or leave out --key",
        )
    try:
        if kind == Kind.MINISIGN:
            names = ["-m", str(path.absolute()), "-x", str(signature.absolute())]
            run.output(["minisign", "-V", "-q", "-p", str(key.absolute()), *names])
        else:
            check_ssh(path, signature, key, cache)
    except run.CommandFailed as error:
        said = error.stderr.strip() or error.stdout.decode(errors="replace").strip()
        raise AuditError(
            f"{path.name} was not signed with {key.name}: {said[-300:]}",
            means="Somebody else made the statement, or it was changed.",
            next="name the key of who published the wheel, or don't use the wheel",
        ) from None


def check_ssh(path: Path, signature: Path, key: Path, cache: Path) -> None:
    """ssh-keygen wants a list of who may sign."""
    with scratch.folder(cache, "signers") as folder:
        line = key.read_text(encoding="utf-8").strip()
        signers = folder / "signers"
        signers.write_text(f'{NAMESPACE} namespaces="{NAMESPACE}" {line}\n', encoding="utf-8")
        command = ["ssh-keygen", "-q", "-Y", "verify", "-f", str(signers), "-I", NAMESPACE]
        command += ["-n", NAMESPACE, "-s", str(signature.absolute())]
        run.output(command, stdin=path.read_bytes())
