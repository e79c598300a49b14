"""The regenerated report against the committed one: identical, within tolerances, or different.

Nothing is run. A report has three kinds of files:

- data (csv, json): compared value by value with the tolerances declared here, which allow for
  other hardware; params and data in provenance.json must be equal, its volatile part is left out;
- text printed from data (md, tex, …): reprinted where data it is printed from has moved, else
  it must be identical;
- pictures and pages (png, pdf, html): redrawn is said and not judged, as fonts differ.
"""

import csv
import io
import json
import math
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeGuard, get_args

from reg.claims import CLAIMS, MSD_RANGE
from reg.errors import InputError
from reg.tuning import FIRST_RATIO

Place = tuple[str, ...]  # where a value stands: (task, method, metric, column), or keys of JSON
State = Literal[
    "different", "missing", "added", "within tolerance", "reprinted", "redrawn", "identical"
]

DRAWN = (".png", ".pdf", ".html")
OPTIONAL = ("report.pdf",)  # made only where LaTeX is installed
ABSENT = "(absent)"
SHOWN = 5  # changes of a file that are printed, largest first
LONGEST = 40  # letters of a text


# --- tolerances -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Tolerance:
    """|new − old| ≤ absolute + relative·|old|, or, with `factor`, 1/factor ≤ new/old ≤ factor.

    For the factor, values below `floor` count as `floor`.
    """

    absolute: float = 0.0
    relative: float = 0.0
    factor: float = 1.0
    floor: float = 0.0

    def share(self, old: float, new: float) -> float:
        """The change as a share of what is allowed: up to 1 is within, infinite if none is."""
        if old == new or (math.isnan(old) and math.isnan(new)):
            return 0.0
        if self.factor > 1:
            old, new = max(old, self.floor), max(new, self.floor)
            if old <= 0 or new <= 0:
                return math.inf
            change, allowed = abs(math.log(new / old)), math.log(self.factor)
        else:
            change, allowed = abs(new - old), self.absolute + self.relative * abs(old)
        # Rounded because 27.7 − 27.6 is a little more than 0.1 in binary.
        share = round(change / allowed, 6) if allowed else math.inf
        return math.inf if math.isnan(share) else share


EXACT = Tolerance()
ANY = Tolerance(absolute=math.inf)
DECIBEL = Tolerance(absolute=0.1)
SSIM = Tolerance(absolute=0.005)
DECADES = Tolerance(absolute=0.5)
STEPS = Tolerance(factor=10, floor=MSD_RANGE[0])  # the end of a geometric decay
CROSSING = Tolerance(factor=1.5)  # the iteration at which a flat curve meets a threshold
TUNED = Tolerance(factor=FIRST_RATIO)  # a first step of the search: the optimum is flat
NETWORK = Tolerance(relative=0.05)  # Jacobians of networks that were trained anew
OTHER = Tolerance(relative=1e-2)

# Of what a claim measures, by its unit; the one without is SSIM.
UNITS = {"dB": DECIBEL, "": SSIM, "decades": DECADES}
# By place, its parts joined by `/`; the first pattern that fits decides.
TOLERANCES: tuple[tuple[str, Tolerance], ...] = (
    ("*/iterations/mean", CROSSING),
    ("*/images", EXACT),
    ("*/runs", EXACT),
    ("*/iteration", EXACT),
    ("*/iterations", EXACT),
    ("*/early", EXACT),
    ("*/begin", EXACT),
    ("*/seeds/*", EXACT),
    ("*/published", EXACT),
    ("*/least", TUNED),
    ("*/greatest", TUNED),
    ("*/chosen", TUNED),
    ("*/trials", TUNED),
    ("*/near_from", CROSSING),
    ("*/speed_up", CROSSING),
    ("*/fallen", Tolerance(absolute=1)),
    ("*/greatest_loss", Tolerance(absolute=0.5, relative=0.1)),  # of the run that fell furthest
    ("*_loss", DECIBEL),
    # Of the runs one may cross a criterion.
    ("*/converged", Tolerance(absolute=1)),
    ("*/held", Tolerance(absolute=1)),
    ("*/shrunk", Tolerance(absolute=1)),
    ("*/settled", Tolerance(absolute=1)),
    ("*/effect_size", Tolerance(absolute=0.1, relative=0.1)),  # divided by a spread
    ("*/smallest_shrink", STEPS),
    ("*/log10_ratio/*", DECADES),
    ("*/msd", STEPS),
    ("*psnr*", DECIBEL),
    ("*/gap", DECIBEL),
    ("ahead_of_best_rival/*", DECIBEL),
    ("*ssim*", SSIM),
    *(
        (f"{prefix}{claim.id}/*", UNITS.get(claim.unit, OTHER))
        for claim in CLAIMS
        for prefix in ("", "claims/")
    ),
    ("curvature/*", TUNED),
    ("map_residual/*", NETWORK),
    ("asymmetry_*", NETWORK),
    ("norm_*", NETWORK),
    ("*_bound/*", NETWORK),
    ("*", OTHER),
)
# Words that follow from numbers beside them, and may change where one of those has moved.
FOLLOWING = ("why", "rival", "at_edge", "ran_out")
# What provenance.json says of code and machine; its other parts must be equal.
CIRCUMSTANCES = ("code_sha256", "packages", "precision", "weights_sha256")


def tolerance_of(place: Place) -> Tolerance:
    """The declared tolerance of the value at this place of a table or JSON file."""
    path = "/".join(place)
    return next(tolerance for pattern, tolerance in TOLERANCES if fnmatchcase(path, pattern))


def _tolerance_of_provenance(place: Place) -> Tolerance:
    return ANY if place[0] in CIRCUMSTANCES else EXACT


# --- comparing ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A value that moved; `share` is of its tolerance, infinite where there is none."""

    place: Place
    old: object
    new: object
    share: float


@dataclass(frozen=True)
class File:
    """How one file of the report came out."""

    name: str
    state: State
    changes: tuple[Change, ...] = ()

    @property
    def share(self) -> float:
        """The largest change as a share of its tolerance."""
        if self.state in ("missing", "added"):
            return 0.0 if self.name in OPTIONAL else math.inf
        return max((change.share for change in self.changes), default=0.0)


def compare_reports(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[File]:
    """Every file of two reports (name → content), sorted by name.

    Raises:
        InputError: a file that differs cannot be read as what its name says.
    """
    names = sorted({*old, *new})
    data = {name: _compare(name, old, new) for name in names if name.endswith((".csv", ".json"))}
    moved = {name for name, file in data.items() if file.state != "identical"}
    return [data.get(name) or _compare(name, old, new, moved) for name in names]


def _compare(
    name: str, old: Mapping[str, bytes], new: Mapping[str, bytes], moved: set[str] | None = None
) -> File:
    """One file; `moved` are the data files that texts may follow."""
    if name not in new:
        return File(name, "missing")
    if name not in old:
        return File(name, "added")
    if old[name] == new[name]:
        return File(name, "identical")
    if moved is None:
        return _compare_data(name, old[name], new[name])
    if name.endswith(DRAWN):
        return File(name, "redrawn")
    table = str(PurePosixPath(name).with_suffix(".csv"))
    sources = {table} if table in old or table in new else moved
    if sources & moved:
        return File(name, "reprinted")
    was, now = (each[name].decode(errors="replace") for each in (old, new))
    return File(name, "different", (Change(("text",), was, now, math.inf),))


def _compare_data(name: str, old: bytes, new: bytes) -> File:
    as_committed = (old, f"{name} as committed", "try another --against")
    as_it_lies = (new, name, "run `make reproduce`")
    if name.endswith(".csv"):
        changes = list(_table_changes(_read_table(*as_committed), _read_table(*as_it_lies)))
    elif name == "provenance.json":
        was, now = _read_json(*as_committed), _read_json(*as_it_lies)
        was.pop("volatile", None)
        now.pop("volatile", None)
        changes = list(_changes(was, now, (), _tolerance_of_provenance))
        if not changes:
            return File(name, "identical")
    else:
        was, now = _read_json(*as_committed), _read_json(*as_it_lies)
        changes = list(_changes(was, now, (), tolerance_of))
    if all(change.place[-1] in FOLLOWING for change in changes):
        changes = [replace(change, share=math.inf) for change in changes]
    changes.sort(key=lambda change: -change.share)
    beyond = bool(changes) and changes[0].share > 1
    return File(name, "different" if beyond else "within tolerance", tuple(changes))


def _read_json(content: bytes, name: str, mend: str) -> dict[str, Any]:
    try:
        value = _by_key(json.loads(content))
    except ValueError as error:
        raise InputError(f"{name}: not JSON ({error}); {mend}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name}: neither an object nor a list; {mend}")
    return value


def _read_table(content: bytes, name: str, mend: str) -> list[dict[str, str]]:
    try:
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        return [dict(zip(header, row, strict=True)) for row in rows]
    except (ValueError, csv.Error) as error:
        raise InputError(f"{name}: not a CSV table ({error}); {mend}") from None


def _table_changes(old: list[dict[str, str]], new: list[dict[str, str]]) -> Iterator[Change]:
    """Columns that came or went, then the values of the others, row by row of the same keys."""
    before, after = (list(table[0]) if table else [] for table in (old, new))
    for column in [*before, *(c for c in after if c not in before)]:
        if not (column in before and column in after):
            state = ("column", ABSENT) if column in before else (ABSENT, "column")
            yield Change((column,), *state, math.inf)
    shared = [column for column in before if column in after]
    keys = _leading_text(shared, [*old, *new])
    yield from _changes(_nested(old, shared, keys), _nested(new, shared, keys), (), tolerance_of)


def _leading_text(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> int:
    """How many columns, from the left, hold text: they name the row."""
    for count, column in enumerate(columns):
        if all(isinstance(_value(row[column]), float | None) for row in rows):
            return count
    return len(columns)


def _nested(rows: list[dict[str, str]], columns: Sequence[str], keys: int) -> dict[str, Any]:
    """A table as nested objects, one level per key, then the row's values by column.

    Rows of equal keys get a level more, their number among them.
    """
    nested: dict[str, Any] = {}
    paths = [tuple(row[column] for column in columns[:keys]) for row in rows]
    repeated = not keys or len(set(paths)) < len(paths)
    seen: Counter[Place] = Counter()
    for row, path in zip(rows, paths, strict=True):
        level = nested
        seen[path] += 1
        for key in [*path, *([f"#{seen[path]}"] if repeated else [])]:
            level = level.setdefault(key, {})
        level.update({column: _value(row[column]) for column in columns[keys:]})
    return nested


def _value(cell: str) -> float | str | None:
    """A cell as a number, as None where it is empty, else as text."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _changes(
    old: Any, new: Any, place: Place, tolerance: Callable[[Place], Tolerance]
) -> Iterator[Change]:
    """What differs between two nested values; what one of them lacks is one change."""
    old, new = _by_key(old), _by_key(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = (*place, key)
            yield from _changes(old.get(key, ABSENT), new.get(key, ABSENT), inner, tolerance)
    elif isinstance(old, dict) or isinstance(new, dict):
        # A claim that comes or goes is a change of verdict.
        was, now = (
            each.get("verdict", "present") if isinstance(each, dict) else each
            for each in (old, new)
        )
        held = old if isinstance(old, dict) else new
        end = ("verdict",) if "verdict" in held else ()
        yield Change((*place, *end), was, now, _share(was, now, tolerance(place)))
    elif type(old) is not type(new) or old != new:
        allowed = ANY if place[-1] in FOLLOWING else tolerance(place)
        share = _share(old, new, allowed)
        if share > 0 or isinstance(old, str):
            yield Change(place, old, new, share)


def _by_key(value: Any) -> Any:
    """Lists as objects: by the `id` of their members where they have one, else by position."""
    if not isinstance(value, list):
        return value
    if value and all(isinstance(member, dict) and "id" in member for member in value):
        return {str(member["id"]): member for member in value}
    return {str(position): member for position, member in enumerate(value)}


def _share(old: object, new: object, tolerance: Tolerance) -> float:
    if _is_number(old) and _is_number(new):
        return tolerance.share(old, new)
    return 0.0 if tolerance is ANY else math.inf


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- reading both reports -------------------------------------------------------------------


def committed_reports(folder: Path, revision: str) -> tuple[str, dict[str, bytes]]:
    """The commit that `revision` names, and the files of `folder` in it, without a checkout.

    Raises:
        InputError: no git repository, no such revision, or it has no such folder.
    """
    try:
        _git("rev-parse", "--git-dir")
    except InputError as error:
        raise InputError(f"{error}; `reg verify` compares with the history of a clone") from None
    try:
        named = ("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        commit = _git("rev-parse", *named).decode().split()[-1]
    except InputError:
        raise InputError(
            f"--against {revision}: no such revision; `git log` lists them, and a shallow clone "
            "gets the others by `git fetch --unshallow`"
        ) from None
    if not _git("ls-tree", commit, "--", folder.as_posix()):
        found = _git("ls-tree", "-d", "--name-only", commit, "--", f"{folder.parent.as_posix()}/")
        profiles = ", ".join(PurePosixPath(line).name for line in found.decode().splitlines())
        raise InputError(
            f"{folder.as_posix()}: not in {revision}, which has {profiles or 'no reports'}; "
            "commit it first, or name another --profile or --against"
        )
    archive = io.BytesIO(_git("archive", "--format=tar", commit, "--", folder.as_posix()))
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                name = PurePosixPath(member.name).relative_to(folder.as_posix())
                files[str(name)] = content.read()
    return commit, _visible(files)


def _git(*arguments: str) -> bytes:
    """What git prints; InputError with its first line where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True)
    except OSError as error:
        raise InputError(f"git cannot be run ({error.strerror}); install it") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise InputError(lines[0] if lines else f"git {arguments[0]} failed")
    return done.stdout


def regenerated_reports(folder: Path) -> dict[str, bytes]:
    """The files of `folder` as they lie there; InputError if there are none."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if not files:
        raise InputError(f"{folder.as_posix()}: no reports there; run `make reproduce` first")
    return _visible(files)


def _visible(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without those that an editor or file manager hides."""
    return {
        name: content
        for name, content in files.items()
        if not any(part.startswith(".") for part in PurePosixPath(name).parts)
    }


# --- the answer -----------------------------------------------------------------------------


def verify_reports(profile: str, revision: str) -> tuple[str, bool]:
    """What moved between reports/<profile>/ at `revision` and as it lies there, as text.

    And whether the two agree: byte for byte, or within the tolerances of this module.

    Raises:
        InputError: no repository, revision, profile or reports, or a file that cannot be read.
    """
    folder = Path("reports", profile)
    if folder.name != profile or profile == "..":
        raise InputError(f"--profile {profile}: no name of a folder in reports/")
    new = regenerated_reports(folder)
    commit, old = committed_reports(folder, revision)
    files = compare_reports(old, new)
    heading = f"{folder.as_posix()} against {revision} ({commit[:10]})"
    agree = not any(file.share > 1 for file in files)
    return "\n".join([heading, *_verdicts(files), *_moved(files), _summary(files)]), agree


def _verdict_changes(files: Sequence[File]) -> list[tuple[str, str]]:
    """(claim, `old → new`), each once, though several files say it; the overall ones first."""
    found: dict[tuple[str, str], int] = {}
    for file in files:
        for change in file.changes:
            if change.place[-1] == "verdict":
                place = change.place[:-1]
                place = place[1:] if place[0] == "claims" else place
                found[" ".join(place), f"{change.old} → {change.new}"] = len(place)
    return sorted(found, key=lambda each: found[each])


def _verdicts(files: Sequence[File]) -> Iterator[str]:
    changes = _verdict_changes(files)
    width = max((len(claim) for claim, _ in changes), default=0)
    for claim, change in changes:
        yield f"VERDICT  {claim:<{width}}  {change}"


def _moved(files: Sequence[File]) -> Iterator[str]:
    """A line per file that is not identical, the largest change first, then its values."""
    moved = [file for file in files if file.state != "identical"]
    moved.sort(key=lambda file: (-file.share, not file.changes, file.state, file.name))
    if not moved:
        return
    width = max(len(file.name) for file in moved)
    yield f"{'FILE':<{width}}  {'STATE':<16}  {'MOVED':>5}  OF THE TOLERANCE"
    for file in moved:
        count = str(len(file.changes)) if file.changes else ""
        share = _share_text(file.share) if count or file.share else REMARKS.get(file.state, "")
        yield f"{file.name:<{width}}  {file.state:<16}  {count:>5}  {share}".rstrip()
        others = [change for change in file.changes if change.place[-1] != "verdict"]
        for change in others[:SHOWN]:
            yield f"    {_described(change)}"
        if len(others) > SHOWN:
            yield f"    … and {len(others) - SHOWN} no larger"


REMARKS: dict[State, str] = {
    "reprinted": "its data moved",
    "redrawn": "not judged",
    "missing": "optional",
    "added": "optional",
}


def _share_text(share: float) -> str:
    return "none allowed" if share == math.inf else f"{share:.2g}"


def _described(change: Change) -> str:
    place, old, new = " ".join(change.place), change.old, change.new
    if isinstance(old, str) and isinstance(new, str) and len(old) + len(new) > 2 * LONGEST:
        # Of long texts the words from which they differ.
        same = zip(old, new, strict=False)
        first = next((i for i, (a, b) in enumerate(same) if a != b), min(len(old), len(new)))
        old, new = old[max(0, first - 10) :], new[max(0, first - 10) :]
    share = f"  ({_share_text(change.share)})" if change.share < math.inf else ""
    return f"{place}: {_text(old)} → {_text(new)}{share}"


def _text(value: object) -> str:
    if value is None:
        return "none"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _summary(files: Sequence[File]) -> str:
    count = Counter(file.state for file in files)
    if count["identical"] == len(files):
        return f"Identical: {len(files)} files, byte for byte (provenance's volatile part apart)."
    outcome = "Different" if any(file.share > 1 for file in files) else "Within tolerances"
    verdicts = len(_verdict_changes(files))
    parts = [f"{verdicts} verdict{'s' * (verdicts > 1)} changed"] if verdicts else []
    parts += [f"{count[state]} {state}" for state in get_args(State) if count[state]]
    return f"{outcome}: {', '.join(parts)}; {len(files)} files."
