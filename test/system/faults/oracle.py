"""What must hold whatever happens, clause by clause; each raises Violation with the clause's name.

sent      nothing is stored that no meter sent
equal     after the round that follows, what is stored is what the meters recorded, second by second
answered  a message that was answered 200 is stored, also where no round brought it
account   received = stored + duplicate + rejected + queued + spooled + lost, in every answer; at the end
          nothing is queued, spooled or lost, and the figures agree with the rows and with what was sent
counters  no counter goes back
health    it says no, and why, while a fault lasts that stops the work, and yes within 30 s of its end
proven    no minute is called proven that differs from its meter's ledger
verified  what a meter is told is verified reaches the end of what it recorded, and never passes what it has
          finished
exit      SIGTERM ends every process within the deadline, with exit code 0
restart   after any death the next start succeeds
files     every file of the database is whole
log       nothing ends in an unhandled exception
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import apsw
from system.faults.ledger import Ledger
from system.faults.meter import Meter
from system.faults.plan import Fault, Plan
from system.faults.subject import Violation
from system.faults.watch import RECEIVED, Look, check_account

from ec_server.storage.contract import Store
from utilities.checksum_util import parse_canonical
from utilities.errors import StorageError
from utilities.model import MinuteState
from utilities.utc import DAY_S, MINUTE_S, minute_text

RECOVERY_S = 30.0
_AROUND_S = 2 * DAY_S
"""How far around what a meter recorded its rows are looked for; Cassandra looks day by day."""

OpenStore = Callable[[], Store]


def _around(ledger: Ledger) -> tuple[int, int]:
    return ledger.first_second - _AROUND_S, ledger.first_second + _AROUND_S


def stored_seconds(store: Store, ledger: Ledger, start: int, stop: int) -> dict[int, dict[int, str]]:
    """What is stored, merged by rank from the rows; violates ``sent`` at the first foreign sample."""
    recorded, found = ledger.seconds(), dict[int, dict[int, str]]()
    for row in store.rows(ledger.device_id, start, stop):
        samples = parse_canonical(row.batch.values)
        own = recorded.get(row.batch.second, {})
        foreign = {us: v for us, v in samples.items() if own.get(us) != v}
        if foreign:
            raise Violation("sent", f"{ledger.device_id} {row.batch.second}: stored {foreign}, never sent")
        found.setdefault(row.batch.second, {}).update(samples)
    return found


def check_equal(store: Store, ledger: Ledger) -> None:
    """Everything recorded is stored, nothing else is, and all of it is proven."""
    found = stored_seconds(store, ledger, *_around(ledger))
    recorded = ledger.seconds()
    wrong = {second for second in recorded | found if recorded.get(second) != found.get(second)}
    if wrong:
        lacking = {s: len(recorded[s]) - len(found.get(s, {})) for s in sorted(wrong)[:5]}
        raise Violation(
            "equal", f"{ledger.device_id}: {len(wrong)} seconds differ, samples lacking {lacking}"
        )
    for second in recorded:
        if store.second_text(ledger.device_id, second) != ledger.text(second):
            raise Violation("equal", f"{ledger.device_id} {second}: its text differs from its rows")
    states = proven_states(store, ledger)
    unproven = [minute_text(m) for m in ledger.minutes() if states.get(m) is not MinuteState.PROVEN]
    if unproven:
        raise Violation("equal", f"{ledger.device_id}: equal and not proven: {unproven}")


def proven_states(store: Store, ledger: Ledger) -> dict[int, MinuteState | None]:
    """The state on record of each minute of the ledger."""
    minutes = ledger.minutes()
    if not minutes:
        return {}
    records = store.minutes(ledger.device_id, minutes[0], minutes[-1] + MINUTE_S)
    return {record.minute: record.state for record in records}


def check_proof(open_store: OpenStore, ledgers: Sequence[Ledger]) -> int:
    """Each minute that is called proven, before and after its rows were read, is as recorded; how many."""
    looked = 0
    try:
        with open_store() as store:
            for ledger in ledgers:
                looked += _check_proof(store, ledger)
    except StorageError:
        pass  # the database cannot be read at the moment, so that it claims nothing
    return looked


def _check_proof(store: Store, ledger: Ledger) -> int:
    proven = _proven(store, ledger)
    for minute in proven:
        unfinished = ledger.through()
        found = stored_seconds(store, ledger, minute, minute + MINUTE_S)
        own = {s: v for s, v in ledger.seconds().items() if minute <= s < minute + MINUTE_S}
        early = unfinished is not None and minute >= unfinished
        if (early or found != own) and minute in _proven(store, ledger):
            why = "its meter still records it" if early else "it differs from the ledger"
            raise Violation("proven", f"{ledger.device_id} {minute_text(minute)}: {why}")
    return len(proven)


def _proven(store: Store, ledger: Ledger) -> list[int]:
    return [m for m, state in proven_states(store, ledger).items() if state is MinuteState.PROVEN]


def check_answered(store: Store, meter: Meter) -> None:
    """Every message that was answered 200 is stored as the row that it is."""
    rows = {
        (row.batch.second, row.batch.values)
        for row in store.rows(meter.ledger.device_id, *_around(meter.ledger))
    }
    missing = [n for n in meter.tally.answered if (meter.sent[n].second, meter.sent[n].text) not in rows]
    if missing:
        raise Violation("answered", f"{meter.ledger.device_id}: {len(missing)} answered and not stored")


def check_rows_against_account(
    store: Store, meters: Sequence[Meter], figures: Counter[str], *, exact: bool
) -> None:
    """As many rows as the account calls stored.

    Unless ``exact``: then a writer that died may have left rows whose messages were taken again, and count as
    stored twice, or as duplicates of themselves.
    """
    rows = sum(1 for meter in meters for _ in store.rows(meter.ledger.device_id, *_around(meter.ledger)))
    stored, duplicate = figures["ec_batches_stored_total"], figures["ec_batches_duplicate_total"]
    if rows != stored if exact else rows > stored + duplicate:
        known = f"{stored} batches are counted as stored, {duplicate} as duplicates"
        raise Violation("account", f"{known}, {rows} rows are there")


def check_final_account(plan: Plan, figures: Counter[str], meters: Sequence[Meter]) -> None:
    """At rest: nothing left on the way or lost, and no more and no less than the meters know of."""
    check_account(figures)
    left = {n: figures[n] for n in ("ec_queue_batches", "ec_spool_batches", "ec_batches_lost_total")}
    if any(left.values()):
        raise Violation("account", f"at rest there is still {left}")
    answered = sum(len(m.tally.answered) + m.tally.garbage_answered for m in meters)
    transmitted = sum(m.tally.transmitted for m in meters)
    if not answered <= figures[RECEIVED] <= transmitted:
        raise Violation("account", f"received {figures[RECEIVED]}, sent {transmitted}, answered {answered}")
    rejected = figures["ec_messages_rejected_total"]
    garbage = sum(m.tally.garbage for m in meters)
    if rejected < sum(m.tally.garbage_answered for m in meters) or (rejected > garbage and not plan.rejects):
        raise Violation("account", f"rejected {rejected}, {garbage} were to be")
    distinct = sum(len(m.tally.attempted) for m in meters)
    if not plan.loses_history and figures["ec_batches_stored_total"] > distinct and plan.engine == "sqlite":
        raise Violation("account", f"{figures['ec_batches_stored_total']} stored of {distinct} sent")


def check_health(looks: Sequence[Look], fault: Fault, began_s: float, ended_s: float) -> bool:
    """Health said no, with the right word, before the fault ended; whether there was anything to check."""
    kind = fault.rules
    heard = [look for look in looks if began_s + kind.shown_after_s <= look.at_s <= ended_s]
    if not kind.shown_after_s or len([look for look in heard if look.healthy is not None]) < 2:
        return False
    if not any(look.healthy is False and any(w in look.reasons for w in kind.shown_as) for look in heard):
        said = {look.reasons if look.healthy is False else "ok" for look in heard}
        raise Violation("health", f"while {fault}: health said {said}")
    return True


def check_files(folder: Path) -> int:
    """SQLite finds every file whole; how many there are."""
    files = [*folder.rglob("*.sqlite"), *folder.rglob("*.db")]
    for path in files:
        connection = apsw.Connection(str(path))
        try:
            said = connection.execute("PRAGMA integrity_check").fetchall()
        except apsw.Error as error:
            said = [(str(error),)]
        finally:
            connection.close()
        if said != [("ok",)]:
            raise Violation("files", f"{path.name}: {said[:3]}")
    damaged = [path.name for path in folder.rglob("*damaged*") if not _is_the_faults_own(path)]
    if damaged:
        raise Violation("files", f"set aside as damaged: {damaged}")
    return len(files)


def _is_the_faults_own(aside: Path) -> bool:
    """Whether a file was set aside because a fault overwrote it; its log goes with it."""
    file = aside.with_name(aside.name.removesuffix("-wal").removesuffix("-shm"))
    return file.exists() and file.read_bytes()[:3] == b"not"


def check_log(text: str) -> None:
    """No traceback."""
    found = re.search(r"^Traceback.*?^(?=\d{4}-|\S*Error|\Z)[^\n]*", text, re.MULTILINE | re.DOTALL)
    if found:
        raise Violation("log", found[0][-900:])


def check_not_ahead(meters: Sequence[Meter]) -> None:
    """No meter has been told that minutes are verified which it has not finished."""
    for meter in meters:
        answerer = meter.answerer
        told = answerer.verified.through if answerer and answerer.verified else 0
        unfinished = meter.ledger.through()  # asked afterwards: it only grows
        if unfinished is not None and told > unfinished:
            text = f"told {minute_text(told)}, it records {minute_text(unfinished)}"
            raise Violation("verified", f"{meter.ledger.device_id}: {text}")


def check_verified(through: Mapping[str, int | None], ledgers: Sequence[Ledger]) -> None:
    """The last ``verified`` frame of each meter names the end of what it recorded."""
    for ledger in ledgers:
        end = ledger.minutes()[-1] + MINUTE_S
        told = through[ledger.device_id]
        if told is None or told < end:
            said = "nothing" if told is None else minute_text(told)
            raise Violation("verified", f"{ledger.device_id}: told {said}, recorded until {minute_text(end)}")
