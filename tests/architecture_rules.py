"""The rules of architecture §3 and style.md §3 as functions over a file's syntax tree.

Each rule takes a `Source` and yields `Violation`s, so that `test_architecture.py` can show on
planted sources that the rule sees what it is for. Standard library only.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

LINES_PER_FUNCTION_MAX = 70
COLUMNS_MAX = 100
COMPOSITION_ROOTS = frozenset(
    {
        *("worker", "starter", "settings", "settings_file", "wiring", "observing"),
        *("payload_keys", "payload_watch", "cli"),
    }
)
LIFECYCLE = "workflows._lifecycle"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Standard library that is I/O, clock, environment or chance; never in the pure core.
_IMPURE = _names(
    "asyncio atexit concurrent ctypes ftplib glob http io logging mmap multiprocessing os pathlib "
    "pickle platform queue random resource sched secrets select selectors shelve shutil signal "
    "smtplib socket sqlite3 ssl subprocess sys syslog tempfile threading time urllib zoneinfo"
)


@dataclass(frozen=True)
class Violation:
    """One broken rule at one line."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Source:
    """One Python file of the repository; `path` is relative to its root."""

    path: PurePosixPath
    text: str
    tree: ast.Module = field(compare=False)

    @classmethod
    def parse(cls, path: str, text: str) -> Source:
        return cls(PurePosixPath(path), text, ast.parse(text))

    @property
    def folder(self) -> str:
        return self.path.parts[0] if len(self.path.parts) > 1 else ""

    @property
    def package(self) -> tuple[str, ...]:
        return self.path.parts[:-1]

    def violation(self, node: ast.AST | int, text: str) -> Violation:
        line = node if isinstance(node, int) else getattr(node, "lineno", 0)
        return Violation(str(self.path), line, text)


@dataclass(frozen=True)
class FolderRule:
    """What a folder may import: our own modules (a prefix covers its children) and packages."""

    own: frozenset[str]
    third_party: frozenset[str] = frozenset()
    banned_standard: frozenset[str] = frozenset()
    # Heavy packages that may only be imported inside a function.
    lazy: frozenset[str] = frozenset()


IMPORT_TABLE: dict[str, FolderRule] = {
    "domain": FolderRule(_names("domain"), _names("pydantic pydantic_core"), _IMPURE),
    "strategies": FolderRule(
        # The one pure module of marketdata: it imports nothing but domain.
        _names("domain strategies marketdata.indicators"),
        _names("pydantic pandas numpy"),
        _names("socket http urllib"),
    ),
    "brokers": FolderRule(
        _names("domain brokers"), _names("pydantic httpx websockets"), _names("os")
    ),
    "marketdata": FolderRule(
        _names("domain marketdata"),
        _names("pydantic httpx websockets pandas numpy pyarrow exchange_calendars"),
        _names("os"),
    ),
    "simulator": FolderRule(
        _names("simulator domain.money domain.instrument"),
        _names("pydantic starlette uvicorn uvloop websockets msgpack"),
    ),
    "ledger": FolderRule(
        _names("domain ledger"), _names("pydantic pydantic_core sqlalchemy asyncpg alembic")
    ),
    "backtest": FolderRule(
        _names("domain strategies backtest marketdata.port"), _names("pydantic pandas numpy numba")
    ),
    "activities": FolderRule(
        _names(
            "domain activities brokers.port brokers.errors marketdata.port "
            "ledger.repository ledger.records ledger.errors"
        ),
        _names(
            "pydantic temporalio.activity temporalio.common temporalio.exceptions "
            "temporalio.client temporalio.service"
        ),
        _names("os"),
        lazy=_names("pandas numpy"),
    ),
    "workflows": FolderRule(
        _names("domain activities workflows"),
        _names("pydantic temporalio.workflow temporalio.common temporalio.exceptions"),
        _IMPURE - {"asyncio"},
    ),
    "console": FolderRule(
        _names("domain console ledger.repository ledger.records ledger.errors"),
        _names("pydantic fastapi starlette uvicorn temporalio.client"),
    ),
    "observability": FolderRule(
        _names("domain observability"),
        _names("pydantic temporalio structlog opentelemetry prometheus_client"),
        lazy=_names("apprise cryptography"),
    ),
    "deploy": FolderRule(
        _names("domain deploy observability ledger.migrate"),
        _names("pydantic temporalio google.protobuf asyncpg"),
    ),
}
EMPTY_INIT_FOLDERS = frozenset(IMPORT_TABLE)
DETERMINISTIC_FOLDERS = frozenset({"workflows", "domain"})

_BANNED_CALLS = _names(
    "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today "
    "uuid.uuid1 uuid.uuid4 os.getenv decimal.getcontext asyncio.wait asyncio.as_completed"
)
_BANNED_BUILTINS = _names("print open hash")
_BANNED_PREFIXES = ("time.", "random.", "os.environ", "zoneinfo.", "secrets.")
_SET_NAMES = frozenset({"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet"})
# A generator over a set is harmless where the order cannot be seen.
_ORDER_FREE = _names("sorted any all min max set frozenset len")
# Composed, so that this file does not contain what it looks for.
LEFTOVERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "break" + r"point\(")) + ")")
MACHINE_PATHS = re.compile(
    r"(?<![\w.])/(" + "|".join(("wo" + "rk", "ro" + "ot", "fa" + "rm", "Use" + "rs")) + r")/\w"
)


# --- imports ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Import:
    node: ast.stmt
    module: str
    at_module_level: bool


def _imports(source: Source) -> Iterator[_Import]:
    # Expressions hold no imports: leaving them out makes this ten times as fast.
    holders = (ast.stmt, ast.ExceptHandler, ast.match_case)
    waiting: list[tuple[ast.AST, bool]] = [(source.tree, True)]
    for node, top in waiting:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(node, alias.name, top)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            for alias in node.names:
                yield _Import(node, f"{base}.{alias.name}" if base else alias.name, top)
        top = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = (each for each in ast.iter_child_nodes(node) if isinstance(each, holders))
        waiting.extend((each, top) for each in inner)


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = source.package[: len(source.package) - node.level + 1]
    return ".".join((*parts, node.module) if node.module else parts)


def _covers(prefixes: frozenset[str], module: str) -> bool:
    return any(module == each or module.startswith(each + ".") for each in prefixes)


def check_imports(source: Source, own_packages: frozenset[str]) -> Iterator[Violation]:
    """The import table of architecture §3, relative and lazy imports included."""
    rule = IMPORT_TABLE.get(source.folder)
    for each in _imports(source):
        top = each.module.split(".")[0]
        if top in COMPOSITION_ROOTS and source.folder in IMPORT_TABLE:
            yield source.violation(each.node, f"imports composition root {top}")
            continue
        if rule is None or top == "__future__":
            continue
        if not _is_allowed(rule, each, top, own_packages):
            yield source.violation(each.node, f"{source.folder}/ may not import {each.module}")
    yield from _check_venues(source)


def _is_allowed(rule: FolderRule, each: _Import, top: str, own_packages: frozenset[str]) -> bool:
    if top in own_packages or top in COMPOSITION_ROOTS:
        return _covers(rule.own, each.module)
    if top in sys.stdlib_module_names:
        return not _covers(rule.banned_standard, each.module)
    if top == "pydantic_core" and "pydantic" in rule.third_party:
        return True
    lazily = not each.at_module_level and _covers(rule.lazy, each.module)
    return lazily or _covers(rule.third_party, each.module)


_BROKERS = Path(__file__).resolve().parent.parent / "brokers"
BROKER_MODULES = frozenset(path.name for path in _BROKERS.glob("*.py"))


def _check_venues(source: Source) -> Iterator[Violation]:
    """An adapter does not know another venue's adapter."""
    if source.folder != "brokers":
        return
    venue = source.path.parts[1] if len(source.path.parts) > 2 else None
    for each in _imports(source):
        parts = each.module.split(".")
        is_venue = parts[0] == "brokers" and len(parts) > 2
        # A venue is a folder; modules beside the folders serve all of them.
        is_shared = f"{parts[1]}.py" in BROKER_MODULES if is_venue else True
        if not is_shared and parts[1] != venue:
            yield source.violation(each.node, f"one venue may not import another: {each.module}")


def check_empty_init(source: Source) -> Iterator[Violation]:
    """The sandbox imports parent packages too: they must cost nothing."""
    if source.path.name == "__init__.py" and source.folder in EMPTY_INIT_FOLDERS and source.text:
        yield source.violation(1, "__init__.py must be empty")


# --- determinism ------------------------------------------------------------------------------


def _alias_map(source: Source) -> dict[str, str]:
    """Local name to the dotted name it was imported as."""
    names: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            for alias in node.names:
                names[alias.asname or alias.name] = f"{base}.{alias.name}"
    return names


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """The imported dotted name; "" for what hangs on a local name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return ""
    return ".".join((aliases[node.id], *reversed(parts)))


def check_determinism(source: Source) -> Iterator[Violation]:
    """Clock, chance, environment, time zones, bare output: what the sandbox does not all see."""
    if source.folder not in DETERMINISTIC_FOLDERS:
        return
    aliases = _alias_map(source) | {name: name for name in _BANNED_BUILTINS}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = _dotted(node, aliases)
            if name in _BANNED_CALLS | _BANNED_BUILTINS or name.startswith(_BANNED_PREFIXES):
                yield source.violation(node, f"{name} is not deterministic")


def check_set_iteration(source: Source) -> Iterator[Violation]:
    """Set order differs per process (style.md rule 7): sort first."""
    if source.folder not in DETERMINISTIC_FOLDERS:
        return
    set_names = _set_names(source.tree)
    order_free = _order_free_generators(source.tree)
    for node in ast.walk(source.tree):
        for iterated in _iterated(node, order_free):
            if _is_set(iterated, set_names):
                yield source.violation(iterated, "iterates a set; sort it first")


def _iterated(node: ast.AST, order_free: set[int]) -> Iterator[ast.expr]:
    if isinstance(node, ast.For | ast.AsyncFor):
        yield node.iter
    elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
        if id(node) not in order_free:
            yield from (generator.iter for generator in node.generators)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        if node.func.id in {"list", "tuple", "iter", "enumerate"}:
            yield node.args[0]
    elif isinstance(node, ast.Starred):
        yield node.value


def _order_free_generators(tree: ast.Module) -> set[int]:
    return {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _ORDER_FREE
        and node.args
    }


def _set_names(tree: ast.Module) -> set[str]:
    """Names and attributes annotated as sets or bound to a set expression."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _is_set_annotation(node.annotation):
            names.add(ast.unparse(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None:
            if _is_set_annotation(node.annotation):
                names.add(node.arg)
        elif isinstance(node, ast.Assign) and _is_set(node.value, set()):
            names.update(ast.unparse(target) for target in node.targets)
    return names


def _is_set_annotation(annotation: ast.expr) -> bool:
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return ast.unparse(base).split(".")[-1] in _SET_NAMES


def _is_set(node: ast.expr, set_names: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in {"set", "frozenset"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub):
        return _is_set(node.left, set_names) or _is_set(node.right, set_names)
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in set_names


# --- the pure core ----------------------------------------------------------------------------


def check_no_float(source: Source) -> Iterator[Violation]:
    """No float in an annotation of `domain/`: money would lose cents (style.md rule 15).

    The one exception is written in the name: a duration in wall seconds ends in `_s`.
    """
    if source.folder != "domain":
        return
    for node in ast.walk(source.tree):
        for name, annotation in _annotated(node):
            is_float = re.search(r"\bfloat\b", ast.unparse(annotation)) is not None
            if is_float and not name.lower().endswith("_s"):
                yield source.violation(annotation, "float in an annotation of domain/")


def _annotated(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.AnnAssign):
        yield ast.unparse(node.target), node.annotation
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if node.returns is not None:
            yield node.name, node.returns
    elif isinstance(node, ast.arg) and node.annotation is not None:
        yield node.arg, node.annotation


_FROZEN_ROOTS = _names(
    "Frozen Exception ValueError RuntimeError StrEnum Enum IntEnum Protocol NamedTuple TypedDict"
)


def check_frozen_classes(sources: Sequence[Source]) -> Iterator[Violation]:
    """Every class of `domain/` is frozen, an enumeration, a protocol or an error."""
    domain = [source for source in sources if source.folder == "domain"]
    classes = [
        (source, node)
        for source in domain
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    ]
    fine = set(_FROZEN_ROOTS)
    fine.update(node.name for _source, node in classes if _is_frozen_by_itself(node))
    grew = True
    while grew:
        inherited = {
            node.name
            for _source, node in classes
            if any(_base_name(base) in fine for base in node.bases)
        }
        grew = not inherited <= fine
        fine |= inherited
    for source, node in classes:
        if node.name not in fine:
            yield source.violation(node, f"class {node.name} is not frozen")


def _base_name(base: ast.expr) -> str:
    inner = base.value if isinstance(base, ast.Subscript) else base
    return ast.unparse(inner).split(".")[-1]


def _is_frozen_by_itself(node: ast.ClassDef) -> bool:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("dataclass"):
            return any(
                keyword.arg == "frozen" and ast.unparse(keyword.value) == "True"
                for keyword in decorator.keywords
            )
    for statement in node.body:
        if isinstance(statement, ast.Assign) and "model_config" in ast.unparse(
            statement.targets[0]
        ):
            return "frozen=True" in ast.unparse(statement.value).replace(" ", "")
    return False


# --- workflows --------------------------------------------------------------------------------

_ACTIVITY_CALLS = re.compile(r"(^|\.)(execute|start)_(local_)?activity(_class|_method)?$")
_TIMEOUTS = frozenset({"start_to_close_timeout", "schedule_to_close_timeout"})


def check_activity_calls(source: Source) -> Iterator[Violation]:
    """A timeout and a retry policy from `workflows/_lifecycle.py`, also by `**options`."""
    if source.folder != "workflows":
        return
    aliases = _alias_map(source)
    own = str(source.path) == "workflows/_lifecycle.py"
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not _ACTIVITY_CALLS.search(ast.unparse(node.func)):
            continue
        spread = [keyword.value for keyword in node.keywords if keyword.arg is None]
        if any(_is_from_lifecycle(value, aliases) for value in spread):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if not _TIMEOUTS & given.keys():
            yield source.violation(node, "activity call names no timeout")
        policy = given.get("retry_policy")
        # A handed-on name is fine: policies can be made in one file only, see below.
        handed_on = isinstance(policy, ast.Name)
        if policy is None or not (own or handed_on or _is_from_lifecycle(policy, aliases)):
            yield source.violation(node, f"activity call names no retry policy of {LIFECYCLE}")


def check_retry_policies(source: Source) -> Iterator[Violation]:
    """Retry policies come from one place (architecture §4)."""
    if source.folder != "workflows" or str(source.path) == "workflows/_lifecycle.py":
        return
    aliases = _alias_map(source)
    for node in ast.walk(source.tree):
        named = _dotted(node, aliases) if isinstance(node, ast.Name | ast.Attribute) else ""
        if named == "temporalio.common.RetryPolicy":
            yield source.violation(node, f"retry policies are made in {LIFECYCLE} only")


def _is_from_lifecycle(value: ast.expr, aliases: dict[str, str]) -> bool:
    inner = value.func if isinstance(value, ast.Call) else value
    return _dotted(inner, aliases).startswith(LIFECYCLE + ".")


def workflow_names(source: Source) -> Iterator[tuple[ast.ClassDef, str | None, bool]]:
    """Class, registered name (None when not given) and whether it names its versioning."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            called = isinstance(decorator, ast.Call)
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(function) != "workflow.defn":
                continue
            keywords = decorator.keywords if isinstance(decorator, ast.Call) and called else []
            given = {keyword.arg: keyword.value for keyword in keywords}
            name = given.get("name")
            text = name.value if isinstance(name, ast.Constant) else None
            shown = text if isinstance(text, str) else None
            yield node, shown, "versioning_behavior" in given


def check_workflow_definitions(source: Source) -> Iterator[Violation]:
    """A fixed name (a class rename must not break history) and a versioning behaviour."""
    if source.folder != "workflows":
        return
    for node, name, has_versioning in workflow_names(source):
        if name is None:
            yield source.violation(node, f"workflow {node.name} names no name=")
        if not has_versioning:
            yield source.violation(node, f"workflow {node.name} names no versioning_behavior=")


def check_replay_histories(source: Source, histories: Path) -> Iterator[Violation]:
    """Every workflow has at least one recorded history to replay (style.md rule 30)."""
    if source.folder != "workflows":
        return
    for node, name, _has_versioning in workflow_names(source):
        if name is not None and not list((histories / name).glob("*.json")):
            yield source.violation(node, f"workflow {name} has no history in {histories.name}/")


# --- size and leftovers -----------------------------------------------------------------------


def check_size(source: Source) -> Iterator[Violation]:
    """Functions of at most 70 lines, lines of at most 100 characters."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LINES_PER_FUNCTION_MAX:
                yield source.violation(node, f"{node.name} has {lines} lines")
    for number, line in enumerate(source.text.splitlines(), start=1):
        if len(line) > COLUMNS_MAX:
            yield source.violation(number, f"line of {len(line)} characters")


def check_leftovers(source: Source) -> Iterator[Violation]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if LEFTOVERS.search(line):
            yield source.violation(number, "leftover marker or debugger call")


def check_machine_paths(source: Source) -> Iterator[Violation]:
    """A path of one machine does not belong in a repository that must run on every machine."""
    for number, line in enumerate(source.text.splitlines(), start=1):
        if MACHINE_PATHS.search(line):
            yield source.violation(number, "path of one machine")
