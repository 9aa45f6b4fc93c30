"""Structured logs: one JSON object per line, UTC, correlation by `trade_id` (style.md rule 32).

Everything goes through the standard library's loggers, so that Temporal's `workflow.logger` and
`activity.logger`, libraries and our own `get_logger` come out alike. Values are data in JSON, so
that control characters cannot forge a line (faults.md S25); secrets are masked by name and inside
addresses (S21).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
import temporalio.activity
import temporalio.workflow

from observability.subject import subject_of

MASK = "***"
_SECRET_NAME = re.compile(r"secret|password|passwd|token|authorization|api[-_]?key|dsn", re.I)
_PASSWORD_IN_URL = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")
_QUIET_LOGGERS = ("httpx", "httpcore", "websockets", "sqlalchemy.engine", "alembic")

Event = MutableMapping[str, Any]


def configure_logging(
    level: str = "INFO", *, json_lines: bool = True, stream: TextIO | None = None
) -> None:
    """Sets up the root logger once per process; a second call replaces the first.

    Fields given by `extra={"trade_id": …}` or `get_logger().bind(trade_id=…)` become top-level
    keys beside `timestamp`, `level`, `logger` and `event`.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _lift_temporal_fields,
        _mask_secrets,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str, sort_keys=True)
        if json_lines
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # The ids are fields of their own; in the message they would only hide it.
    temporalio.workflow.logger.workflow_info_on_message = False
    temporalio.activity.logger.activity_info_on_message = False


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose keyword arguments become fields of the line."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _lift_temporal_fields(_logger: Any, _method: str, event: Event) -> Event:
    """Keeps what identifies a run; the rest of Temporal's context repeats itself on every line."""
    for source in ("temporal_workflow", "temporal_activity"):
        context = event.pop(source, None)
        if isinstance(context, dict):
            for name in ("workflow_id", "run_id", "activity_type", "attempt"):
                if name in context:
                    event.setdefault(name, context[name])
    workflow_id = event.get("workflow_id")
    if isinstance(workflow_id, str):
        # Workflow lines; those of activities have their ids from `ActivityWatch`.
        for name, value in subject_of(workflow_id, ()).fields.items():
            event.setdefault(name, value)
    return event


def _mask_secrets(_logger: Any, _method: str, event: Event) -> Event:
    for name, value in list(event.items()):
        if _SECRET_NAME.search(name) and value:
            event[name] = MASK
        elif isinstance(value, str) and "://" in value:
            event[name] = _PASSWORD_IN_URL.sub(rf"\g<1>{MASK}@", value)
    return event
