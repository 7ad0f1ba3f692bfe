#!/usr/bin/env python3
"""Recomputes the statements of all users from the exports, to the last millionth.

    recompute_statements.py FOLDER

FOLDER has the exports of all users, from the first day on:

    records.csv             GET /internal/v1/billing/records.csv?from=...&to=...
    recharges.csv           GET /internal/v1/billing/recharges.csv?from=...&to=...
    recharge-refunds.csv    GET /internal/v1/billing/recharge-refunds.csv?from=...&to=...
    adjustments.csv         GET /internal/v1/billing/adjustments.csv?from=...&to=...
    statements-MONTH.csv    GET /internal/v1/billing/statements.csv?month=MONTH, for each month

and, where they are to be compared too, statements of single users:

    statement-USER-MONTH.csv    GET /api/v1/billing/statement.csv?user_id=USER&month=MONTH

It needs nothing but Python 3, and shares no code with the service. It prints each difference, and exits
with 1 if there is any. An export reaches 366 days: for a longer time, put the exports of several years
one after the other without the further lines of column names.
"""

import csv
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

KINDS = ["top_up", "unapplied_payment", "top_up_refund", "chargeback", "adjustment", "charge", "charge_refund"]
# The columns of statements.csv, in the order of the kinds.
SUMS = ["top_ups", "unapplied_payments", "top_up_refunds", "chargebacks", "adjustments", "charges", "charge_refunds"]
# The tokens by class, and images.
USAGE = [
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "images",
]
UNITS = {
    "free_count": ("charge", "free"),
    "paid_count": ("charge", "paid"),
    "refunded_free_count": ("charge_refund", "free"),
    "refunded_paid_count": ("charge_refund", "paid"),
}


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def amount(text):
    value = Fraction(text)
    if (value * 1_000_000).denominator != 1:
        sys.exit(f"{text} has more than six places")
    return value


class Movements:
    """The sums of each user, month, kind, and line of a statement."""

    def __init__(self, folder):
        self.amounts = defaultdict(Fraction)
        self.units = defaultdict(int)
        # The entries, free and paid units, the amount, and the usage of each line.
        self.lines = defaultdict(lambda: [set(), 0, 0, Fraction(), defaultdict(int)])
        self.read_payments(folder)
        self.read_records(folder)

    def move(self, user, day, kind, value, entry, line=("", "", "")):
        month = day[:7]
        self.amounts[user, month, kind] += value
        of_line = self.lines[user, month, (kind, *line)]
        of_line[0].add(entry)
        of_line[3] += value

    def read_payments(self, folder):
        for row in rows(folder / "recharges.csv"):
            if row["status"] in ("success", "refunded"):
                self.move(row["user_id"], row["billing_day"], "top_up", amount(row["amount"]), row["order_id"])
        for row in rows(folder / "recharge-refunds.csv"):
            if row["status"] == "success":
                kind = "chargeback" if row["kind"] == "chargeback" else "top_up_refund"
                self.move(row["user_id"], row["billing_day"], kind, -amount(row["amount"]), row["refund_id"])
        for row in rows(folder / "adjustments.csv"):
            is_payment = row["adjustment_id"].startswith("unapplied payment ")
            kind = "unapplied_payment" if is_payment else "adjustment"
            self.move(row["user_id"], row["billing_day"], kind, amount(row["amount"]), row["adjustment_id"])

    def read_records(self, folder):
        for row in rows(folder / "records.csv"):
            kind = "charge_refund" if row["type"].endswith("_refund") else "charge"
            part = "free" if row["type"].startswith("free") else "paid"
            user, month = row["user_id"], row["billing_day"][:7]
            value = amount(row["amount"]) if kind == "charge_refund" else -amount(row["amount"])
            # A record that is older than trace ids is a call of its own.
            call = ("trace", row["trace_id"]) if row["trace_id"] else ("record", row["id"])
            line = (row["service_name"], row["model"], row["late_of"])
            self.move(user, row["billing_day"], kind, value, call, line)
            self.units[user, month, kind, part] += int(row["count"])
            of_line = self.lines[user, month, (kind, *line)]
            of_line[1 if part == "free" else 2] += int(row["count"])
            # A commit may still change the usage of a stream that broke.
            if row["reported"] == "false":
                for column in USAGE:
                    of_line[4][column] += int(row[column])


class Comparison:
    def __init__(self):
        self.compared = 0
        self.differences = 0

    def expect(self, what, says, should_be):
        self.compared += 1
        if says != should_be:
            self.differences += 1
            print(f"{what}: says {says}, should be {should_be}")


def compare_all_users(folder, movements, comparison):
    """Compares statements-MONTH.csv of each month, which begin with the first movement of all."""
    balances = defaultdict(Fraction)
    files = sorted(folder.glob("statements-????-??.csv"))
    if not files:
        sys.exit(f"{folder} has no statements-MONTH.csv")
    known = {month for _, month, _ in movements.amounts}
    missing = known - {file.stem[-7:] for file in files}
    comparison.expect("months without statements", sorted(missing), [])
    statements = 0
    for file in files:
        month = file.stem[-7:]
        users = set()
        for row in rows(file):
            user = row["user_id"]
            users.add(user)
            statements += 1
            where = f"{user} in {month}"
            comparison.expect(f"{where}: month", row["month"], month)
            comparison.expect(f"{where}: opening_balance", amount(row["opening_balance"]), balances[user])
            for kind, column in zip(KINDS, SUMS):
                moved = movements.amounts[user, month, kind]
                comparison.expect(f"{where}: {column}", amount(row[column]), moved)
                balances[user] += moved
            comparison.expect(f"{where}: closing_balance", amount(row["closing_balance"]), balances[user])
            for column, (kind, part) in UNITS.items():
                units = movements.units[user, month, kind, part]
                comparison.expect(f"{where}: {column}", int(row[column]), units)
        moved = {user for user, of, _ in movements.amounts if of == month}
        comparison.expect(f"users without a statement in {month}", sorted(moved - users), [])
    return statements


def compare_one_user(file, movements, comparison):
    """Compares the lines of statement-USER-MONTH.csv.

    The charges of very many records or models are not split by model, and then have no calls and no usage. A file
    that an earlier release has written lacks some columns.
    """
    found, balances = {}, {}
    columns, is_split = [], True
    for row in rows(file):
        columns = [column for column in USAGE if column in row]
        is_split = row.get("by_model", "true") == "true"
        user, month = row["user_id"], row["month"]
        if row["kind"].endswith("_balance"):
            balances[row["kind"]] = amount(row["amount"])
            continue
        key = (row["kind"], row["service_name"], row["model"], row["late_of"])
        units = (int(row["calls"]), int(row["free_count"]), int(row["paid_count"]))
        comparison.expect(f"{file.name}: units of {key}", int(row["units"]), units[1] + units[2])
        comparison.expect(f"{file.name}: lines of {key}", key in found, False)
        usage = tuple(int(row[column]) for column in columns)
        found[key] = (*units, amount(row["amount"]), usage)
    lines = defaultdict(lambda: (0, 0, 0, Fraction(), (0,) * len(columns)))
    for (of, at, key), (entries, free, paid, value, usage) in movements.lines.items():
        if (of, at) != (user, month):
            continue
        usage = tuple(usage[column] for column in columns)
        if is_split or not key[0] in ("charge", "charge_refund"):
            lines[key] = (len(entries), free, paid, value, usage)
            continue
        of_service = (key[0], key[1], "", "")
        before = lines[of_service]
        lines[of_service] = (0, before[1] + free, before[2] + paid, before[3] + value, before[4])
    comparison.expect(f"{file.name}: lines", sorted(found.items()), sorted(lines.items()))
    moved = sum((line[3] for line in found.values()), Fraction())
    says = balances["opening_balance"] + moved
    comparison.expect(f"{file.name}: opening balance and lines", says, balances["closing_balance"])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    movements, comparison = Movements(folder), Comparison()
    statements = compare_all_users(folder, movements, comparison)
    singles = sorted(folder.glob("statement-*.csv"))
    for file in singles:
        compare_one_user(file, movements, comparison)
    print(
        f"{statements} statements of all users and {len(singles)} of single users: "
        f"{comparison.compared} values compared, {comparison.differences} differences"
    )
    sys.exit(1 if comparison.differences else 0)


if __name__ == "__main__":
    main()
