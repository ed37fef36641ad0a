"""Images that are fetched: from whom, how much, how long, and what a row is told where they are not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.render.images import fetch
from tests.support.images import PNG, Server, serving

MOST = 2**16
HERE = ["localhost"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(
        cat=PNG,
        large=PNG + bytes(MOST),
        exact=bytes(MOST),
        endless=PNG,
        cut=PNG,
        missing=404,
        busy=503,
        moved="/cat",
        twice="/moved",
        round="/round",
        away="http://other.localhost:PORT/cat",
        digits="http://127.0.0.1:PORT/cat",
        file="file:///etc/passwd",
        at="http://localhost:PORT@evil.example/cat",
    ) as made:
        yield made


def refusal(server: Server, path: str, hosts: list[str] = HERE) -> str:
    with pytest.raises(ValueError, match="host") as caught:
        fetch.fetch(server.url(path), hosts, MOST)
    return str(caught.value)


def test_an_image_is_fetched_as_it_is_and_says_who_asks(server: Server) -> None:
    assert fetch.fetch(server.url("/cat"), HERE, MOST) == PNG
    assert fetch.fetch(server.url("/exact"), HERE, MOST) == bytes(MOST)
    [(path, headers), _] = server.asked
    assert (path, headers["Host"]) == ("/cat", f"localhost:{server.port}")
    assert headers["User-Agent"].startswith("batchgen/")
    assert not headers.keys() & {"Authorization", "Cookie", "Referer"}


def test_a_path_is_sent_as_the_url_has_it(server: Server) -> None:
    server.files["/a%20b/%E7%8C%AB?x=1&y=%2F"] = PNG
    assert fetch.fetch(server.url("/a%20b/猫?x=1&y=%2F#part"), HERE, MOST) == PNG


def test_redirects_are_followed_as_long_as_they_stay(server: Server) -> None:
    assert fetch.fetch(server.url("/twice"), HERE, MOST) == PNG
    assert refusal(server, "/round") == "host localhost: more than 5 redirects"


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/away", "host other.localhost is not in input.image_hosts"),
        ("/digits", "a redirect to what is no plain http(s) URL of a host by name"),
        ("/file", "a redirect to what is no plain http(s) URL of a host by name"),
        ("/at", "a redirect to what is no plain http(s) URL of a host by name"),
    ],
)
def test_a_redirect_that_leads_elsewhere_is_not_followed(server: Server, path: str, cause: str) -> None:
    assert refusal(server, path) == cause
    assert [asked for asked, _ in server.asked] == [path]


def test_a_host_that_the_job_does_not_name_is_not_asked(server: Server) -> None:
    assert refusal(server, "/cat", ["example.org"]) == "host localhost is not in input.image_hosts"
    assert server.asked == []


def test_what_the_server_refuses_is_told_at_once(server: Server) -> None:
    assert refusal(server, "/missing") == "host localhost: HTTP 404"
    assert len(server.asked) == 1


@pytest.mark.parametrize(("path", "cause"), [("/busy", "HTTP 503"), ("/cut", "IncompleteRead")])
def test_a_busy_server_and_half_an_image_are_asked_for_again(
    server: Server, path: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "WAIT_SECONDS", 0.01)
    assert cause in refusal(server, path)
    assert len(server.asked) == fetch.TRIES


def test_nobody_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAIT_SECONDS", 0.01)
    with serving() as server:
        url = server.url("/cat")
    with pytest.raises(ValueError, match=r"^host localhost: .*refused.* \(3 tries\)$"):
        fetch.fetch(url, HERE, MOST)


def test_an_image_over_the_cap_is_not_held(server: Server) -> None:
    assert refusal(server, "/large") == f"host localhost: the image is over input.max_row_bytes ({MOST})"


def test_a_server_that_takes_its_time_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SECONDS", 0.3)
    assert refusal(server, "/endless") == "host localhost: no whole response after 0.3 s"


def test_a_name_below_a_domain_does_not_lead_into_the_own_network(server: Server) -> None:
    with pytest.raises(ValueError, match="host localhost has a private address: name it"):
        fetch._addresses("localhost", server.port, is_named=False)
    assert fetch._addresses("localhost", server.port, is_named=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ],
)
def test_an_address_of_no_public_host_is_private(address: str) -> None:
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d822"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert fetch.is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_in_an_address_is_as_private_as_it_is_alone(address: ipaddress.IPv4Address) -> None:
    mapped, translated = f"::ffff:{address}", str(ipaddress.IPv6Address(int(fetch._NAT64.network_address) + int(address)))
    if not fetch.is_public(str(address)):
        assert not fetch.is_public(mapped)
        assert not fetch.is_public(translated)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate of localhost, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + signed.public_bytes(pem))
    return path


def test_tls_is_checked_and_not_left(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context, cat=PNG, moved="/cat", plain="http://localhost:PORT/cat", endless=PNG) as server:
        url = server.url("/cat", "https")
        with pytest.raises(ValueError, match=r"^host localhost: .*certificate verify failed"):
            fetch.fetch(url, HERE, MOST)
        monkeypatch.setattr(fetch, "_trusting", lambda: ssl.create_default_context(cafile=str(certificate)))
        assert fetch.fetch(url, HERE, MOST) == PNG
        assert fetch.fetch(server.url("/moved", "https"), HERE, MOST) == PNG
        with pytest.raises(ValueError, match="a redirect from https to another scheme"):
            fetch.fetch(server.url("/plain", "https"), HERE, MOST)
        monkeypatch.setattr(fetch, "SECONDS", 0.5)
        with pytest.raises(ValueError, match=r"^host localhost: no whole response after 0\.5 s"):
            fetch.fetch(server.url("/endless", "https"), HERE, MOST)
