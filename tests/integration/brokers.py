"""Brokers that are not configured as the fixture `broker` is."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from conftest import free_port, missing
from mosquitto import Broker, program

ACL = Path(__file__).parents[2] / "deploy" / "mosquitto.acl"


@contextlib.contextmanager
def broker_with(folder: Path, text: str, extra: str = "allow_anonymous true") -> Iterator[Broker]:
    """A running broker with `text` in the place of the shipped configuration."""
    if program() is None:
        missing("mosquitto")
    started = Broker(folder / "other", free_port(), extra, shipped=text)
    try:
        started.start()
        yield started
    finally:
        started.kill()


def with_users(folder: Path, *users: str) -> tuple[str, Path]:
    """Configuration with the shipped access rules, and a file with the password of every user."""
    passwords = folder / "passwd"
    passwords.touch(0o600)
    for user in users:
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, "secret"], check=True, capture_output=True)
    (folder / "secret").write_text("secret\n")
    extra = f"allow_anonymous false\npassword_file {passwords}\nacl_file {ACL}"
    return extra, folder / "secret"
