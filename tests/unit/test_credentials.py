"""Secrets come from files, are read again when they change, and are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.credentials import ServerTlsConfig, TlsConfig, Watched, read, secret
from exporter.errors import ConfigError
from tests.certificates import Authority


def test_a_secret_is_a_files_text(tmp_path: Path) -> None:
    """White space around it is an editor's."""
    path = tmp_path / "token"
    path.write_text(" s3cret\n")
    assert secret(path) == "s3cret"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n", "is empty"), (b"s3cret\xff", "is not UTF-8 text")],
    ids=["empty", "binary"],
)
def test_what_is_no_secret(tmp_path: Path, content: bytes, message: str) -> None:
    """One line that names the file and shows nothing of it."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as found:
        secret(path)
    assert str(path) in str(found.value)
    assert "s3cret" not in repr(found.value)
    assert found.value.__cause__ is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ConfigError, match=r"cannot read .*token: No such file"):
        read(tmp_path / "token")


def test_a_replaced_file_is_noticed_once(tmp_path: Path) -> None:
    """By renaming, as ACME clients do, and by a symbolic link, as Kubernetes does."""
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "link"
    one.write_text("1")
    other.write_text("2")
    link.symlink_to(one)
    watched = Watched((link,))
    assert not watched.changed()
    (tmp_path / "new").symlink_to(other)
    (tmp_path / "new").rename(link)
    assert watched.changed()
    assert not watched.changed()
    (tmp_path / "third").write_text("3")
    (tmp_path / "third").rename(other)
    assert watched.changed()
    assert not watched.changed()


def test_a_file_that_is_away_is_not_a_change(tmp_path: Path) -> None:
    """What was read before stays in use until there is something else."""
    path = tmp_path / "token"
    path.write_text("1")
    watched = Watched((path,))
    path.unlink()
    assert not watched.changed()
    path.write_text("22")
    assert watched.changed()


def test_a_file_that_holds_no_certificate(tmp_path: Path) -> None:
    """Names the file."""
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    with pytest.raises(ConfigError, match=f"cannot use the certificates in {path}"):
        TlsConfig(ca=path).context()


def test_what_a_server_shows(tmp_path: Path) -> None:
    """A certificate with its own key, and authorities; else one line that names the files."""
    authority = Authority(tmp_path)
    one, other = (authority.issue(name, "DNS:a.test") for name in ("one", "other"))
    good = ServerTlsConfig(certificate=one.certificate, key=one.key, client_ca=authority.pem)
    assert good.read() == tuple(path.read_bytes() for path in good.files())
    empty = tmp_path / "empty"
    empty.touch()
    for change in ({"key": other.key}, {"certificate": empty}, {"client_ca": empty}):
        bad = good.model_copy(update=change)
        with pytest.raises(ConfigError, match="cannot use the certificates in") as raised:
            bad.read()
        assert str(next(iter(change.values()))) in str(raised.value)
    away = good.model_copy(update={"client_ca": tmp_path / "away"})
    with pytest.raises(ConfigError, match=r"cannot read .*away: No such file"):
        away.read()


@pytest.mark.parametrize(
    ("host", "server_name", "expected"),
    [
        ("flp.example", "", "flp.example"),
        ("flp.example.", "", "flp.example"),
        ("127.0.0.1", "flp.example", "flp.example"),
    ],
)
def test_the_name_of_a_server(host: str, server_name: str, expected: str) -> None:
    """Certificates have no dot at the end; what is configured is taken as it is."""
    assert TlsConfig(server_name=server_name).name_of(host) == expected
