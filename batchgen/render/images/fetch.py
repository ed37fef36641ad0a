"""An image by URL: plain GET requests to hosts that the job allows, with caps on bytes and seconds.

The address that is checked is the address that is connected to: a name that is looked up twice may lead elsewhere the second
time. Proxies of the environment are not used, for the same reason."""

import contextlib
import functools
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from urllib.parse import quote, urljoin, urlsplit

from batchgen import __version__
from batchgen.errors import safe_message
from batchgen.job.input.hosts import host_of, is_allowed

SECONDS = 30.0  # of a request, its redirects included
TRIES, WAIT_SECONDS = 3, 0.5  # of requests that met a busy server or no connection; the wait before the second, doubled later
REDIRECTS = 5
CHUNK = 2**16
_HEADERS = {"User-Agent": f"batchgen/{__version__}", "Accept": "image/*", "Connection": "close"}
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_MOVED = {301, 302, 303, 307, 308}
_PLAIN = "%/:@!$&'()*+,;=~?"  # of a path or query: what stays as it is
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class _BusyError(Exception):
    """Another try may do better."""


def fetch(url: str, hosts: Sequence[str], most: int) -> bytes:
    """The body at a URL of one of the `hosts` (patterns of hosts.host_pattern), of `most` bytes at most. Raises ValueError."""
    cause = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            return _followed(url, hosts, most, time.monotonic() + SECONDS)
        except (_BusyError, OSError, http.client.HTTPException) as error:
            cause = safe_message(error) or type(error).__name__
    raise ValueError(f"host {host_of(url)}: {cause} ({TRIES} tries)")


def _followed(url: str, hosts: Sequence[str], most: int, until: float) -> bytes:
    for _ in range(REDIRECTS + 1):
        found = _get(url, hosts, most, until)
        if isinstance(found, bytes):
            return found
        if urlsplit(url).scheme == "https" and urlsplit(found).scheme != "https":
            raise ValueError(f"host {host_of(url)}: a redirect from https to another scheme")
        url = found
    raise ValueError(f"host {host_of(url)}: more than {REDIRECTS} redirects")


def _get(url: str, hosts: Sequence[str], most: int, until: float) -> bytes | str:
    """The body at a URL, or where it redirects to."""
    if (host := host_of(url)) is None:
        raise ValueError("a redirect to what is no plain http(s) URL of a host by name")
    if not is_allowed(host, hosts):
        raise ValueError(f"host {host} is not in input.image_hosts")
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    held = [_connected(_addresses(host, port, is_named=host in hosts), port, until)]
    # A server that sends a byte now and then keeps within the time limit of each read.
    alarm = threading.Timer(max(0.0, until - time.monotonic()), _shut, [held])
    alarm.daemon = True
    alarm.start()
    try:
        connection = http.client.HTTPConnection(host, port)
        if parts.scheme == "https":
            secure = _trusting().wrap_socket(held[0], server_hostname=host, do_handshake_on_connect=False)
            held.append(secure)
            secure.do_handshake()
            connection = http.client.HTTPSConnection(host, port, context=_trusting())
        connection.sock = held[-1]
        target = quote(parts.path or "/", _PLAIN) + (f"?{quote(parts.query, _PLAIN)}" if parts.query else "")
        connection.request("GET", target, headers=_HEADERS)
        response = connection.getresponse()
        if response.status in _MOVED and (moved := response.headers.get("Location")):
            return urljoin(url, moved)
        if response.status in _BUSY:
            raise _BusyError(f"HTTP {response.status}")
        if response.status != 200:
            raise ValueError(f"host {host}: HTTP {response.status}")
        body = _body(response, host, most)
        if time.monotonic() >= until:  # a body without a length may have been cut
            raise TimeoutError
        return body
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"host {host}: {safe_message(error)}") from None
    except (OSError, http.client.HTTPException):
        if time.monotonic() >= until:
            raise ValueError(f"host {host}: no whole response after {SECONDS:g} s") from None
        raise
    finally:
        alarm.cancel()
        held[-1].close()


def _body(response: http.client.HTTPResponse, host: str, most: int) -> bytes:
    body = bytearray()
    while chunk := response.read(min(CHUNK, most + 1 - len(body))):
        body += chunk
        if len(body) > most:
            raise ValueError(f"host {host}: the image is over input.max_row_bytes ({most})")
    if response.length:
        raise http.client.IncompleteRead(bytes(body), response.length)
    return bytes(body)


def _addresses(host: str, port: int, is_named: bool) -> list[str]:
    """The addresses of a host. Raises ValueError where one is private and the job does not name the host itself: a name below an
    allowed domain must not lead into the cluster's network."""
    found = list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    if not is_named and not all(map(is_public, found)):
        raise ValueError(f"host {host} has a private address: name it in input.image_hosts, without a star, if that is meant")
    return found


def is_public(address: str) -> bool:
    """Whether an address is one of the Internet's, and so is the IPv4 address that it stands for."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner: Iterable[ipaddress.IPv4Address | None] = ()
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = (parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ()))
        if parsed in _NAT64:
            inner = (ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF),)
    return all(one.is_global and not one.is_multicast for one in (parsed, *inner) if one is not None)


def _connected(addresses: list[str], port: int, until: float) -> socket.socket:
    """A connection to the first of some addresses that takes one."""
    for number, address in enumerate(addresses, 1):
        try:
            return socket.create_connection((address, port), max(0.001, until - time.monotonic()))
        except OSError:
            if number == len(addresses):
                raise
    raise OSError("no address")


def _shut(held: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(held[-1], socket.SHUT_RDWR)  # that of a TLS socket would take its state from a read under way


_trusting = functools.cache(ssl.create_default_context)
