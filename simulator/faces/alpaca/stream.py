"""The order stream: authenticate, listen, binary frames with JSON text (alpaca.md §7).

`StreamSession` is the protocol without a socket: the WebSocket endpoint and in-process tests use
the same one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from simulator.exchange import Exchange
from simulator.faces.alpaca.render import Render
from simulator.faces.stream import EventHub, Subscriber
from simulator.state import Notice

TRADE_UPDATES = "trade_updates"


class StreamSession(Subscriber):
    """One connection of Alpaca's protocol."""

    def __init__(self, home: StreamHub) -> None:
        super().__init__()
        self.home = home
        self.is_authorized = False
        self.streams: tuple[str, ...] = ()

    @property
    def listens(self) -> bool:
        return TRADE_UPDATES in self.streams

    def receive(self, text: str | bytes) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        data = message.get("data")
        data = data if isinstance(data, dict) else {}
        if message.get("action") in ("authenticate", "auth"):
            key = str(data.get("key_id") or message.get("key") or "")
            secret = str(data.get("secret_key") or message.get("secret") or "")
            self.is_authorized = self.home.admit(self, key, secret)
            status = "authorized" if self.is_authorized else "unauthorized"
            self._reply("authorization", {"status": status, "action": "authenticate"})
        elif message.get("action") == "listen":
            if not self.is_authorized:
                self._reply("authorization", {"status": "unauthorized", "action": "listen"})
                return
            wanted = data.get("streams") or []
            self.streams = tuple(name for name in wanted if name == TRADE_UPDATES)
            self._reply("listening", {"streams": list(self.streams)})

    def _reply(self, stream: str, data: dict[str, Any]) -> None:
        self.push(_frame(stream, data))


class StreamHub(EventHub[StreamSession]):
    """The order events of one account.

    Every connection begins at the first account's hub; `homes` finds the hub that its key belongs
    to, and from then on it hears that account and no other.
    """

    def __init__(
        self,
        exchange: Exchange,
        allows: Callable[[str, str], bool],
        homes: Callable[[str], StreamHub | None] = lambda _key: None,
    ) -> None:
        super().__init__(exchange)
        self._render = Render(exchange)
        self._allows = allows
        self._homes = homes

    def new_session(self) -> StreamSession:
        return StreamSession(self)

    def frame_of(self, notice: Notice) -> bytes | None:
        if notice.order.combo is not None and notice.execution_id is None:
            return None
        return _frame(TRADE_UPDATES, self._render.notice(notice))

    def admit(self, session: StreamSession, key: str, secret: str) -> bool:
        """Checks the pair and moves the connection to the hub of its account."""
        home = self._homes(key) or self
        if not home._allows(key, secret):
            return False
        if home is not self and session in self._sessions:
            self._sessions.remove(session)
            home._sessions.append(session)
            session.home = home
        return True

    def discard(self, session: StreamSession) -> None:
        for hub in (self, session.home):
            if session in hub._sessions:
                hub._sessions.remove(session)


def _frame(stream: str, data: dict[str, Any]) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()
