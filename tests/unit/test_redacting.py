"""Passwords are taken out of texts that leave the process."""

from __future__ import annotations

import pytest

from dagflow._redacting import redacted, unsecret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:p@ss:w/rd@host/db", "postgresql://...@host/db"),
        ("host=h password='two \\' words' user=ada", "host=h password=... user=ada"),
        ("POSTGRES_PASSWORD=abc, db_token: xyz", "POSTGRES_PASSWORD=..., db_token: ..."),
        ("{'password': 'two words', \"api_key\": \"1\"}", "{'password': ..., \"api_key\": ...}"),
        ("the token of a run, and https://host/path", "the token of a run, and https://host/path"),
    ],
)
def test_what_may_be_a_password_is_taken_out(text: str, shown: str) -> None:
    assert redacted(text) == unsecret(text) == shown


def test_a_message_is_cut_and_a_long_text_is_not() -> None:
    text = "a-" * 100_000

    assert len(redacted(text)) == 500
    assert unsecret(text) == text
