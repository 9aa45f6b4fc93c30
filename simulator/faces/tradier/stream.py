"""Tradier's account events: a session from REST, one message to subscribe, order frames."""

from __future__ import annotations

import json

from simulator.exchange import Exchange
from simulator.faces.stream import EventHub, Subscriber
from simulator.faces.tradier.render import Render
from simulator.state import Notice

SESSION_REFUSED = "Invalid Access Token"


class AccountEvents(Subscriber):
    """One connection; it may subscribe again at any time."""

    def __init__(self, hub: AccountEventHub) -> None:
        super().__init__()
        self._hub = hub
        self._listens = False

    @property
    def listens(self) -> bool:
        return self._listens

    def receive(self, text: str | bytes) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        if not self._hub.admit(self, str(message.get("sessionid"))):
            # The refusal is plain text, not JSON (tradier.md §8).
            self.push(SESSION_REFUSED)
            self.close()
            return
        self._listens = "order" in (message.get("events") or [])


class AccountEventHub(EventHub[AccountEvents]):
    """The order events of one account, on the newest session only.

    `homes` are the hubs of all accounts: the session tells whose a connection is.
    """

    def __init__(
        self, exchange: Exchange, render: Render, account: str, homes: list[AccountEventHub]
    ) -> None:
        super().__init__(exchange)
        self._homes = homes
        self._render = render
        self._account = account
        self._session = ""

    def new_session_id(self) -> str:
        """One session at a time: a new one ends the connections of the one before."""
        self._session = self._exchange.state.new_id("session")
        self.close_all()
        return self._session

    def admit(self, session: AccountEvents, session_id: str) -> bool:
        """Moves the connection to the hub whose session it names; False without one."""
        home = next((hub for hub in self._homes if session_id and hub._session == session_id), None)
        if home is None:
            return False
        for hub in self._homes:
            hub.discard(session)
        home._sessions.append(session)
        return True

    def forget(self, session: AccountEvents) -> None:
        for hub in self._homes:
            hub.discard(session)

    def new_session(self) -> AccountEvents:
        return AccountEvents(self)

    def frame_of(self, notice: Notice) -> str | None:
        event = self._render.event(notice, self._account)
        return None if event is None else json.dumps(event, separators=(",", ":"))
