"""What people may ask of a session: pause, resume, stop; each once, none on a stale version."""

from __future__ import annotations

from enum import StrEnum

from domain.session import COMMANDS_KEPT_MAX, SessionReceipt, SessionRequest, SessionState

REASON_MAX = 500


class SessionVerb(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"


def request_fault(state: SessionState, request: SessionRequest) -> str:
    """Why the request is refused, beginning with its code; empty if it is not.

    The repeat of a command that was obeyed is never refused: its sender did not hear the answer.
    """
    if not request.command_id or not request.by:
        return "FIELD_REQUIRED command_id,by: value was empty, allowed text"
    if len(request.reason) > REASON_MAX:
        return f"REASON_TOO_LONG reason: length was {len(request.reason)}, allowed <= {REASON_MAX}"
    if request.command_id in state.seen:
        return ""
    if request.version is not None and request.version != state.version:
        return f"VERSION_CONFLICT version: value was {request.version}, allowed {state.version}"
    return ""


def obey(
    state: SessionState, verb: SessionVerb, request: SessionRequest
) -> tuple[SessionState, SessionReceipt]:
    """The state after the request. What is so already, or was asked before, changes nothing.

    A stopping session stays stopping; a later stop may still ask for flatten.
    """
    wanted = _wanted(state, verb, request)
    is_repeat = request.command_id != "" and request.command_id in state.seen
    if is_repeat or not wanted:
        text = "obeyed before" if is_repeat else _standing(state, verb)
        return state, _receipt(state, request, changed=False, text=text)
    seen = (*state.seen, request.command_id)[-COMMANDS_KEPT_MAX:] if request.command_id else None
    update = {**wanted, "version": state.version + 1, "seen": seen or state.seen}
    state = state.model_copy(update=update)
    return state, _receipt(state, request, changed=True, text=f"{verb} is recorded")


def _wanted(state: SessionState, verb: SessionVerb, request: SessionRequest) -> dict[str, object]:
    """The fields that the request changes; empty when there is nothing to change."""
    if verb is SessionVerb.STOP:
        if state.stopping and (state.flatten or not request.flatten):
            return {}
        reason = state.stopping or request.reason or f"stopped by {request.by}"
        return {"stopping": reason, "flatten": state.flatten or request.flatten}
    if state.stopping or bool(state.paused) is (verb is SessionVerb.PAUSE):
        return {}
    return {"paused": (request.reason or "paused") if verb is SessionVerb.PAUSE else ""}


def _standing(state: SessionState, verb: SessionVerb) -> str:
    if state.stopping:
        return f"the session is stopping: {state.stopping}"
    return "the session was paused already" if verb is SessionVerb.PAUSE else "it was not paused"


def _receipt(
    state: SessionState, request: SessionRequest, *, changed: bool, text: str
) -> SessionReceipt:
    return SessionReceipt(
        command_id=request.command_id,
        changed=changed,
        version=state.version,
        text=text,
        open_trades=state.open_trades,
    )
