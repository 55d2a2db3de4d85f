"""Model servers with certificates of a private CA, and those that ask for one of ours."""

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization

from keyportal.catalog import tls
from keyportal.catalog.tls import tls_context
from keyportal.gateway.http_client.client import Client, parse_base_url
from keyportal.gateway.http_client.messages import ConnectFailed, TransportError
from tests.support.proxies import make_certificate

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
Call = Callable[..., Coroutine[Any, Any, bytes]]


@pytest.fixture
def server_files(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


@pytest.fixture
def client_file(tmp_path: Path) -> Path:
    """A certificate and its key in one file, as a model server asks for it."""
    (folder := tmp_path / "client").mkdir()
    certificate, key = make_certificate(folder)
    (both := folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    return both


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"{}"):
            writer.write(OK)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


def serve(
    server_files: tuple[Path, Path],
    work: Callable[[Call], Coroutine[Any, Any, None]],
    asks: str = "",
) -> None:
    """Run `work(call)` while a server listens; it asks for the client certificate in `asks`."""

    async def run() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*server_files)
        if asks:
            context.load_verify_locations(asks)
            context.verify_mode = ssl.CERT_REQUIRED
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        client = Client(tls_context=tls_context)

        async def call(ca_file: object = "", client_certificate_file: object = "") -> bytes:
            response = await client.send(
                parse_base_url(url, str(ca_file), str(client_certificate_file)),
                "/chat/completions",
                [],
                b"{}",
                connect_timeout=60,
                first_byte_timeout=60,
                read_timeout=60,
            )
            return await response.read()

        await work(call)
        client.close()
        server.close()

    uvloop.run(asyncio.wait_for(run(), 120))  # As the server does.


def test_private_ca_of_one_server_is_trusted_for_it_alone(server_files: tuple[Path, Path]) -> None:
    async def work(call: Call) -> None:
        assert await call(server_files[0]) == b"OK"
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await call()
        assert await call(server_files[0]) == b"OK"

    serve(server_files, work)


def test_ssl_cert_file_is_obeyed(
    server_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(call: Call) -> None:
        assert await call() == b"OK"

    monkeypatch.setenv("SSL_CERT_FILE", str(server_files[0]))
    tls._context.cache_clear()
    try:
        serve(server_files, work)
    finally:
        tls._context.cache_clear()


def test_client_certificate_is_shown_and_its_connection_is_not_shared(
    server_files: tuple[Path, Path], client_file: Path
) -> None:
    """Attack: a model server of another team on the same host is called with our certificate."""
    ca = server_files[0]

    async def work(call: Call) -> None:
        assert await call(ca, client_file) == b"OK"
        with pytest.raises(TransportError):
            await call(ca)
        assert await call(ca, client_file) == b"OK"

    serve(server_files, work, asks=str(client_file))


def test_missing_file_fails_only_the_calls_that_need_it(
    server_files: tuple[Path, Path], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.pem"

    async def work(call: Call) -> None:
        for files in ((missing, ""), (server_files[0], missing)):
            with pytest.raises(ConnectFailed, match=r"missing\.pem can't be used: .*No such file"):
                await call(*files)
        assert await call(server_files[0]) == b"OK"

    serve(server_files, work)


def test_renewed_file_is_read_again(client_file: Path) -> None:
    first = tls_context("", str(client_file))
    assert tls_context("", str(client_file)) is first
    os.utime(client_file, ns=(0, 1))
    assert tls_context("", str(client_file)) is not first


def test_file_without_a_certificate_is_refused(tmp_path: Path, client_file: Path) -> None:
    (empty := tmp_path / "empty.pem").touch()
    for files in ((str(empty), ""), ("", str(empty)), (str(tmp_path), "")):
        with pytest.raises(OSError, match="can't be used"):
            tls_context(*files)


def test_key_with_a_password_is_refused_without_asking_for_it(client_file: Path) -> None:
    """OpenSSL would ask on the terminal, and the server would wait for it."""
    key = serialization.load_pem_private_key(client_file.read_bytes(), None)
    certificate = client_file.read_bytes().partition(b"-----BEGIN PRIVATE")[0]
    client_file.write_bytes(
        certificate
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(OSError, match="can't be used"):
        tls_context("", str(client_file))
