"""Writes the generated parts of docs/architecture.md from the code: `python -m docs.diagrams`.

A part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`. A test fails while the
file says something else than the code, so the pictures cannot grow old.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from domain.order import LIVE_STATES, TERMINAL_STATES, TRANSITIONS, OrderEvent, OrderState
from domain.risk.gate import CHECKS
from domain.trade_state import FINAL_STAGES, Stage
from tests.architecture_rules import IMPORT_TABLE

ARCHITECTURE = Path(__file__).resolve().parent / "architecture.md"

LIVE = tuple(state for state in OrderState if state in LIVE_STATES)
# Terminal states in groups that behave alike; `groups` refuses a group that does not.
ENDED = (OrderState.CANCELED, OrderState.REPLACED, OrderState.EXPIRED, OrderState.REJECTED)

_IN_WORK = (Stage.ENTERING, Stage.OPEN, Stage.EXITING, Stage.CLOSING)

STAGE_MOVES: dict[Stage, dict[Stage, str]] = {
    Stage.RESERVING: {
        Stage.ENTERING: "approved",
        Stage.CLOSING: "stopped before the first order",
        Stage.REFUSED: "gate refused",
    },
    Stage.ENTERING: {
        Stage.OPEN: "held, no entry left",
        Stage.EXITING: "must get out",
        Stage.CLOSING: "flat, no entry left",
    },
    Stage.OPEN: {
        Stage.EXITING: "must get out",
        Stage.CLOSING: "stop or last target",
        Stage.ENTERING: "late accept",
    },
    Stage.EXITING: {
        Stage.CLOSING: "flat",
        Stage.OPEN: "taken over",
        Stage.ENTERING: "late accept",
    },
    Stage.CLOSING: {
        Stage.CLOSED: "proven flat, booked",
        Stage.NOT_FILLED: "never filled, booked",
        Stage.RELEASED: "given to EXTERNAL, booked",
        Stage.OPEN: "late fill",
        Stage.EXITING: "late fill",
        Stage.ENTERING: "late accept",
    },
    Stage.NEEDS_OPERATOR: {
        **dict.fromkeys(_IN_WORK, "resolved"),
        Stage.CLOSED: "flat, booked",
        Stage.NOT_FILLED: "never filled, booked",
        Stage.RELEASED: "given to EXTERNAL, booked",
    },
    Stage.REFUSED: {},
    Stage.NOT_FILLED: {},
    Stage.CLOSED: {},
    Stage.RELEASED: {},
}
"""Which stage may follow which. Stages are derived from the state; a test watches real trades."""


def order_diagram() -> str:
    """The order life cycle as Mermaid: rows of all live or all ended states are drawn once."""
    _check_ended_alike()
    lines = ["```mermaid", "stateDiagram-v2"]
    lines.append('    state "any live state" as live')
    lines.append(f'    state "{", ".join(ENDED)}" as ended')
    lines.append("    [*] --> pending_new")
    drawn = _edges()
    for source, target in sorted(drawn, key=_edge_order):
        events = ", ".join(drawn[source, target])
        lines.append(f"    {source} --> {target} : {events}")
    lines += ["    filled --> [*]", "    ended --> [*]", "    not_sent --> [*]", "```"]
    return "\n".join(lines)


def _check_ended_alike() -> None:
    """The four ended states must have equal rows, or the picture would lie."""
    for event in OrderEvent:
        targets = {TRANSITIONS.get((state, event)) for state in ENDED}
        stays = all(TRANSITIONS.get((state, event)) is state for state in ENDED)
        if not stays and len(targets) != 1:
            raise ValueError(f"ended states differ on {event}: draw them apart")
    if {*ENDED, OrderState.FILLED, OrderState.NOT_SENT} != TERMINAL_STATES:
        raise ValueError("a terminal state is in no group of the diagram")


def _edges() -> dict[tuple[str, str], list[str]]:
    """(source, target) to events, without the rows that change nothing."""
    edges: dict[tuple[str, str], list[str]] = {}
    for event in OrderEvent:
        common = {TRANSITIONS.get((state, event)) for state in LIVE}
        from_all = len(common) == 1 and common <= TERMINAL_STATES
        for state in OrderState:
            target = TRANSITIONS.get((state, event))
            if target is None or target is state:
                continue
            source = "live" if from_all and state in LIVE_STATES else _drawn(state)
            drawn = _drawn(target)
            if source != drawn and event not in edges.setdefault((source, drawn), []):
                edges[source, drawn].append(event)
    return {pair: events for pair, events in edges.items() if events}


def _drawn(state: OrderState) -> str:
    return "ended" if state in ENDED else str(state)


def _edge_order(edge: tuple[str, str]) -> tuple[int, int]:
    names = [str(state) for state in LIVE] + ["live", "not_sent", "filled", "ended"]
    return names.index(edge[0]), names.index(edge[1])


def order_table() -> str:
    """Every row of the table: `·` stays, `–` is illegal (an alert, nothing changes)."""
    columns = [*LIVE, OrderState.FILLED, ENDED[0], OrderState.NOT_SENT]
    heads = [str(state) for state in LIVE] + ["filled", "ended", "not_sent"]
    rows = [[str(event), *(_cell(state, event) for state in columns)] for event in OrderEvent]
    return _markdown_table(["event", *heads], rows)


def _cell(state: OrderState, event: OrderEvent) -> str:
    target = TRANSITIONS.get((state, event))
    if target is None:
        return "–"
    return "·" if target is state else str(target)


def stage_diagram() -> str:
    """The stages a person sees, as Mermaid; rare late moves and the way back are in the text."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> reserving"]
    lines += [f'    state "{", ".join(_IN_WORK)}" as in_work']
    for source, targets in STAGE_MOVES.items():
        usual = {target: why for target, why in targets.items() if not why.startswith("late")}
        if source is Stage.NEEDS_OPERATOR:
            usual = {target: why for target, why in usual.items() if target not in _IN_WORK}
        lines += [f"    {source} --> {target} : {why}" for target, why in usual.items()]
    lines += ["    in_work --> needs_operator : cannot be decided"]
    lines += ["    needs_operator --> in_work : resolved"]
    lines += [f"    {stage} --> [*]" for stage in Stage if stage in FINAL_STAGES]
    return "\n".join([*lines, "```"])


def import_table() -> str:
    """What a folder may import beside the standard library."""
    rows = []
    for folder, rule in IMPORT_TABLE.items():
        packages = _names(rule.third_party)
        if rule.lazy:
            packages += f"; inside functions only: {_names(rule.lazy)}"
        rows.append([f"`{folder}/`", _names(rule.own - {folder}) or "–", packages])
    return _markdown_table(["folder", "of ours", "packages"], rows)


def gate_order() -> str:
    """The checks of the risk gate in their order."""
    return " → ".join(f"`{name}`" for name, _check in CHECKS)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _markdown_table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PARTS = {
    "order diagram": order_diagram,
    "order table": order_table,
    "stage diagram": stage_diagram,
    "import table": import_table,
    "gate order": gate_order,
}


def refreshed(text: str) -> str:
    """The text with every generated part written anew.

    Raises:
        ValueError: a part has no pair of markers.
    """
    for name, draw in PARTS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"\n<!-- end: {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the markers of {name!r} were not in the file")
        text = f"{before}{begin}{draw()}{end}{after}"
    return text


if __name__ == "__main__":
    ARCHITECTURE.write_text(refreshed(ARCHITECTURE.read_text()))
