"""The address of a database on a server, as libpq spells it: `postgresql://user@host:5432/database?sslmode=require`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

EXAMPLE = "postgresql://monitor@db.example/monitor"
# As libpq spells them (https://www.postgresql.org/docs/current/libpq-connect.html), and two of our own at the end.
OPTIONS = (
    "host",
    "port",
    "connect_timeout",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "search_path",
    "statement_cache_size",
)
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A database on a server. `host` is a name, an address, or the directory of a socket; `user` may be empty."""

    user: str
    host: str
    port: int
    database: str
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Without its options, and it has no password."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}{host}:{self.port}/{self.database}"

    def option(self, name: str) -> str | None:
        return dict(self.options).get(name)


def is_server(url: str) -> bool:
    return url.startswith(("postgresql:", "postgres:", "postgresql+"))


def server_address(url: str) -> ServerAddress:
    """ValueError, which never shows the URL, if it is none that can be used."""
    if not url.startswith(("postgresql://", "postgres://")) or not url.isprintable():
        raise ValueError("is not postgresql://user@host/database")
    try:
        parsed = urlsplit(url)
        port = parsed.port
        options = dict(parse_qsl(parsed.query, keep_blank_values=True, strict_parsing=bool(parsed.query)))
    except ValueError:
        raise ValueError("is not postgresql://user@host/database") from None
    if parsed.password is not None or "password" in options:
        raise ValueError("has a password in it: write it as `password:` beside `url:`")
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"has an option that is not known; there are: {', '.join(OPTIONS)}")
    database = unquote(parsed.path.removeprefix("/"))
    if not database or "/" in database or parsed.fragment:
        raise ValueError("names no database")
    host = options.pop("host", "") or unquote(parsed.hostname or "")
    if not host or "," in host:
        raise ValueError("names no server" if not host else "names more than one server")
    for name in ("port", "connect_timeout", "statement_cache_size"):
        if name in options and not (options[name].isdecimal() and int(options[name]) < 65536):
            raise ValueError(f"has a {name} that is not a whole number")
    if options.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"has an sslmode that is none of: {', '.join(SSL_MODES)}")
    port = int(options.pop("port", port or 5432))
    return ServerAddress(unquote(parsed.username or ""), host, port, database, tuple(options.items()))
