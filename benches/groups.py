#!/usr/bin/env python3
"""Many members, many groups, many offsets: how long a running cluster takes, by the protocol itself, without a client library.

groups.py members: each member is a connection of the consumer protocol (KIP-848). Tells every second how much of the topic
is owned, ends when every group owns all of it, each partition once.
groups.py offsets: commits offsets of groups that share a coordinator, kills it, and tells what the next one answers until the
last offset committed is there; then looks at one in five groups.
"""
import argparse
import asyncio
import collections
import struct
import subprocess
import time
import uuid

FIND_COORDINATOR, OFFSET_COMMIT, OFFSET_FETCH, HEARTBEAT = 10, 8, 9, 68
UNKNOWN_MEMBER, FENCED_EPOCH = 25, 110


def java_hash(text):
    value = 0
    for letter in text:
        value = (value * 31 + ord(letter)) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def varint(number):
    out = b""
    while number >= 128:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def compact(value):
    return varint(len(value) + 1) + value.encode()


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, format):
        values = struct.unpack_from(">" + format, self.data, self.at)
        self.at += struct.calcsize(">" + format)
        return values[0] if len(values) == 1 else values

    def varint(self):
        number = shift = 0
        while True:
            byte = self.take("B")
            number, shift = number | (byte & 127) << shift, shift + 7
            if byte < 128:
                return number

    def skip(self, count):
        self.at += max(count, 0)


class Connection:
    def __init__(self, streams):
        self.reader, self.writer = streams
        self.correlation = 0

    @staticmethod
    async def to(address):
        host, port = address.rsplit(":", 1)
        return Connection(await asyncio.open_connection(host, int(port)))

    async def call(self, key, version, body, flexible=False):
        self.correlation += 1
        header = struct.pack(">hhi", key, version, self.correlation) + text("bench") + (b"\0" if flexible else b"")
        self.writer.write(struct.pack(">i", len(header + body)) + header + body)
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        answer = Reader(await self.reader.readexactly(size))
        answer.skip(5 if flexible else 4)
        return answer


async def coordinator(bootstrap, group):
    """(error, broker, its address), by whichever broker answers."""
    for address in bootstrap.split(","):
        try:
            connection = await Connection.to(address)
            answer = await connection.call(FIND_COORDINATOR, 0, text(group))
            connection.writer.close()
        except OSError:
            continue
        error, broker, length = answer.take("hih")
        host = answer.data[answer.at:answer.at + length].decode()
        answer.skip(length)
        return error, broker, f"{host}:{answer.take('i')}"
    raise SystemExit(f"no broker answers at {bootstrap}")


async def coordinator_there(bootstrap, group):
    while True:
        error, broker, address = await coordinator(bootstrap, group)
        if error == 0:
            return broker, address
        await asyncio.sleep(0.1)


def heartbeat(group, member, epoch, topic, owned):
    """Version 1. The first one (epoch 0) says what it wants; `owned` by topic id, None where it has not changed."""
    body = compact(group) + compact(member) + struct.pack(">i", epoch) + b"\0\0"
    body += struct.pack(">i", 60_000 if epoch == 0 else -1)
    body += varint(2) + compact(topic) if epoch == 0 else b"\0"
    body += b"\0\0"
    if owned is None:
        return body + b"\0\0"
    body += varint(len(owned) + 1)
    for topic_id, partitions in owned.items():
        body += topic_id + varint(len(partitions) + 1) + struct.pack(f">{len(partitions)}i", *partitions) + b"\0"
    return body + b"\0"


def heard(answer):
    """(error, epoch, interval in s, assignment or None)."""
    _, error = answer.take("ih")
    answer.skip(answer.varint() - 1)
    answer.skip(answer.varint() - 1)
    epoch, interval = answer.take("ii")
    assignment = None
    if answer.take("b") >= 0:
        assignment = {}
        for _ in range(answer.varint() - 1):
            topic_id = answer.data[answer.at:answer.at + 16]
            answer.skip(16)
            count = answer.varint() - 1
            partitions = answer.take(f"{count}i") if count else ()
            assignment[topic_id] = (partitions,) if count == 1 else partitions
            answer.varint()
    return error, epoch, interval / 1000, assignment


class Members:
    def __init__(self, args):
        self.args = args
        self.owned = [{} for _ in range(args.groups)]
        self.errors = collections.Counter()
        self.beats, self.longest = 0, 0.0

    async def member(self, group, number, address, gate):
        name, epoch, owned = f"{self.args.name}{group}", 0, {}
        member = str(uuid.uuid4())
        async with gate:
            connection = await Connection.to(address)
        while True:
            asked = time.monotonic()
            request = heartbeat(name, member, epoch, self.args.topic, owned)
            error, now, interval, assignment = heard(await connection.call(HEARTBEAT, 1, request, flexible=True))
            self.beats, self.longest = self.beats + 1, max(self.longest, time.monotonic() - asked)
            if error:
                self.errors[error] += 1
                if error in (UNKNOWN_MEMBER, FENCED_EPOCH):
                    epoch, owned = 0, {}
                    self.owned[group].pop(number, None)
                await asyncio.sleep(0.5)
                continue
            epoch, owned = now, assignment
            if assignment is not None:
                self.owned[group][number] = [p for partitions in assignment.values() for p in partitions]
            # What it was given it has at once, and what it must give up it has given up: it says so.
            await asyncio.sleep(0.02 if assignment is not None else interval)

    def whole(self):
        all_of_it = list(range(self.args.partitions))
        return sum(sorted(p for owned in group.values() for p in owned) == all_of_it for group in self.owned)

    async def run(self):
        args, gate, tasks = self.args, asyncio.Semaphore(50), []
        began = time.monotonic()
        for group in range(args.groups):
            _, address = await coordinator_there(args.bootstrap, f"{args.name}{group}")
            tasks += [asyncio.create_task(self.member(group, n, address, gate)) for n in range(args.members)]
        while time.monotonic() - began < args.seconds:
            await asyncio.sleep(1)
            whole, failed = self.whole(), [t.exception() for t in tasks if t.done()]
            print(f"{time.monotonic() - began:6.1f} s  {whole} of {args.groups} groups own all of the topic; {self.beats} "
                  f"heartbeats, the longest {self.longest:.2f} s; errors {dict(self.errors)}", flush=True)
            if failed:
                raise failed[0]
            if whole == args.groups:
                break
        else:
            raise SystemExit("not all is owned")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fetch(connection, group, topic, partition):
    """(offset, error)"""
    body = text(group) + struct.pack(">i", 1) + text(topic) + struct.pack(">ii", 1, partition)
    answer = await connection.call(OFFSET_FETCH, 1, body)
    answer.take("i")
    answer.skip(answer.take("h"))
    _, _, offset, length = answer.take("iiqh")
    answer.skip(length)
    return offset, answer.take("h")


async def commit(args, connection, group):
    """The errors that partitions were answered with."""
    body = text(group) + struct.pack(">ihqi", -1, 0, -1, 1) + text(args.topic) + struct.pack(">i", args.partitions)
    body += b"".join(struct.pack(">iqh", p, p, 0) for p in range(args.partitions))
    answer = await connection.call(OFFSET_COMMIT, 2, body)
    answer.take("i")
    answer.skip(answer.take("h"))
    return {answer.take("ih")[1] for _ in range(answer.take("i"))}


def together(args):
    """Names of groups that belong to one partition of __consumer_offsets: the one of the first."""
    place = lambda name: abs(java_hash(name)) % args.offsets_partitions
    wanted, number = [], 0
    while len(wanted) < args.groups:
        if place(f"{args.name}{number}") == place(f"{args.name}0"):
            wanted.append(f"{args.name}{number}")
        number += 1
    return wanted


async def offsets(args):
    groups, began = together(args), time.monotonic()
    broker, address = await coordinator_there(args.bootstrap, groups[0])
    connection = await Connection.to(address)
    for group in groups:
        while (errors := await commit(args, connection, group)) != {0}:
            print(f"{group}: errors {errors}")
            await asyncio.sleep(0.1)
    print(f"{len(groups) * args.partitions} offsets committed in {time.monotonic() - began:.1f} s; broker {broker} is killed")
    subprocess.run(args.kill.format(broker), shell=True, check=True, stdout=subprocess.DEVNULL)
    began, last, told, rest = time.monotonic(), args.partitions - 1, None, [a for a in args.bootstrap.split(",") if a != address]
    connections = {}
    while told != ("offset", last):
        error, _, now = await coordinator(",".join(rest), groups[-1])
        if error or now == address:
            said = ("no coordinator yet", error)
        else:
            if now not in connections:
                connections[now] = await Connection.to(now)
            offset, error = await fetch(connections[now], groups[-1], args.topic, last)
            said = ("error", error) if error else ("offset", offset)
        if said != told:
            told = said
            print(f"{time.monotonic() - began:6.3f} s  {said[0]} {said[1]}", flush=True)
        await asyncio.sleep(0.002)
    wrong = 0
    for group in groups[::5]:
        for partition in {0, last // 2, last}:
            wrong += await fetch(connections[now], group, args.topic, partition) != (partition, 0)
    print(f"{wrong} wrong offsets in {len(groups[::5])} groups")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["members", "offsets"])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092,127.0.0.1:9102,127.0.0.1:9112")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True, help="of the topic")
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--members", type=int, default=1, help="of each group")
    parser.add_argument("--name", default="bench-", help="what the groups' names begin with")
    parser.add_argument("--seconds", type=float, default=120, help="members: give up after so long")
    parser.add_argument("--offsets-partitions", type=int, default=50, help="offsets.topic.num.partitions")
    parser.add_argument("--kill", default="highwater dev kill {}", help="offsets: kills the broker whose id is put in")
    args = parser.parse_args()
    asyncio.run(Members(args).run() if args.what == "members" else offsets(args))


main()
