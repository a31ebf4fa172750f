"""The key and other people's data stay where they belong."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from connector import errors
from tests.sync.client.conftest import KEY, Bench
from tests.sync.client.raw_server import (
    RawServer,
    answer,
    drop,
    half,
    late,
    page,
    silence,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.hiringcenterpro.com/v2",
        "http://127.0.0.1.example.com/v2",
        "ftp://127.0.0.1/v2",
        "https://user:pw@api.hiringcenterpro.com/v2",
        "https://api.hiringcenterpro.com/v2?x=1",
        "api.hiringcenterpro.com",
        "",
    ],
)
def test_a_client_refuses_a_base_url_that_would_show_the_key(bench: Bench, url: str):
    """Settings check it too; the client is the last line of defence."""
    with pytest.raises(errors.BadSetting, match="base_url"):
        bench.connect(url)


@pytest.mark.parametrize("key", ["two words", "line\nend", "schlüssel", ""])
def test_a_key_that_no_header_holds_is_refused_without_being_quoted(bench: Bench, key: str):
    """The message helps to find the mistake, and shows nothing."""
    with pytest.raises(errors.BadSetting, match="visible ASCII") as caught:
        bench.connect("http://127.0.0.1:1", api_key=key)
    assert not key or key not in str(caught.value)


def test_the_key_is_in_no_representation_and_no_error(bench: Bench):
    """Tracebacks print objects; the chain of causes is cut."""
    client = bench.serve(drop, retry_total_s=1)
    with pytest.raises(errors.Unreachable) as caught:
        client.page("notes", {})
    assert KEY not in repr(client) + repr(vars(client)) + repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_foreign_logs_hold_no_key_and_no_query(bench: Bench, caplog: pytest.LogCaptureFixture):
    """httpx logs every URL; a look-up's query is a person's email."""
    caplog.set_level(logging.DEBUG)
    client = bench.serve(page())
    client.page("prospects", {"email": "jane@example.com", "phone": "+15551234567"})
    assert "/v2/prospects" in caplog.text
    assert "jane" not in caplog.text
    assert "5551234567" not in caplog.text
    assert KEY not in caplog.text


def test_a_plain_request_to_loopback_never_goes_to_a_proxy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    """The proxy would read the key."""
    with RawServer([page("proxied")]) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        client = bench.serve(page("direct"))
        assert client.page("notes", {}).items == [{"id": "direct"}]
        assert proxy.received == []


def test_a_proxy_learns_the_host_but_never_the_key(
    bench: Bench, no_proxies: Callable[[str, str], None]
):
    """It is asked for a tunnel; refused, nothing of the request has left."""
    with RawServer([answer(407, b"no")]) as proxy:
        no_proxies("HTTPS_PROXY", f"http://me:pw@127.0.0.1:{proxy.port}")
        client = bench.connect("https://api.example.com/v2", retry_total_s=1)
        with pytest.raises(errors.Unreachable, match="407") as caught:
            client.page("notes", {})
        assert {sent.method for sent in proxy.received} == {"CONNECT"}
        assert all(sent.target == "api.example.com:443" for sent in proxy.received)
        assert KEY not in str([sent.headers for sent in proxy.received])
    assert caught.value.sent == 0
    assert set(bench.budget.outcomes) == {"unsent"}


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_a_setting_to_correct(
    bench: Bench, no_proxies: Callable[[str, str], None], url: str
):
    """Not a crash in the middle of a run."""
    no_proxies("ALL_PROXY", url)
    with pytest.raises(errors.BadSetting, match="HTTPS_PROXY"):
        bench.connect("https://api.example.com/v2")


_CERTIFICATE = Path(__file__).with_name("localhost.pem")  # self-signed, for these tests alone


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_CERTIFICATE)
    return context


def test_a_server_whose_certificate_fails_never_sees_the_key(
    bench: Bench, tls: ssl.SSLContext, no_proxies: Callable[[str, str], None]
):
    """No retry: its certificate won't change."""
    client = bench.serve(page("1"), tls=tls)
    with pytest.raises(errors.UntrustedServer, match="self-signed certificate"):
        client.page("notes", {})
    assert bench.server.received == []
    assert bench.budget.outcomes == ["unsent"]


def test_certificates_of_a_company_are_trusted_when_the_environment_says_so(
    bench: Bench, tls: ssl.SSLContext, no_proxies: Callable[[str, str], None]
):
    """As the error advises; deadlines and page arrive through TLS as well."""
    no_proxies("SSL_CERT_FILE", str(_CERTIFICATE))
    client = bench.serve(late(bench.clock, silence), half(), page("1"), tls=tls)
    assert client.page("notes", {}).items == [{"id": "1"}]
    assert bench.budget.outcomes == ["unanswered", 200, 200]


def test_certificates_that_are_not_there_are_a_setting_to_correct(
    bench: Bench, no_proxies: Callable[[str, str], None]
):
    """Before anything is sent."""
    no_proxies("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(errors.BadSetting, match="SSL_CERT_FILE"):
        bench.connect("https://localhost:1/v2")
