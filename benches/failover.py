#!/usr/bin/env python3
"""Breaks one node of a `highwater dev` cluster at a time, and tells how long its clients waited.

A round kills the leader of partition 0 (`leader`), the controller (`controller`), stops the leader with SIGSTOP (`pause`), or
stops all nodes by SIGTERM and starts them again, one after another (`rolling`). The gap of a partition is the longest time
between two acks as the producer saw them. At the end all is read back: what was acked is there, once, in order.

The producer is idempotent and impatient, so that what is measured is the cluster: `--defaults` takes the defaults of the client
instead, and has a consumer of defaults read along; such a producer is not idempotent, and its retries may be there twice or
late. Needs confluent-kafka.
"""
import argparse
import collections
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 6
IMPATIENT = {
    "enable.idempotence": True, "linger.ms": 0, "message.timeout.ms": 60000, "retry.backoff.ms": 10,
    "retry.backoff.max.ms": 100, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 200,
    "topic.metadata.refresh.fast.interval.ms": 50, "topic.metadata.refresh.interval.ms": 1000,
}
PAUSED = {"request.timeout.ms": 1500, "socket.timeout.ms": 2000}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True, help="the folder of the dev cluster, which runs")
    parser.add_argument("--highwater", default="highwater", help="the program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--defaults", action="store_true", help="a client of defaults, and a consumer beside it")
    parser.add_argument("what", choices=["leader", "controller", "pause", "rolling"])
    return parser.parse_args()


class Cluster:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.bootstrap = ",".join("127.0.0.1:%d" % node["kafka_port"] for node in self.status()["nodes"])

    def dev(self, *arguments):
        command = [self.program, "dev", *map(str, arguments), "--dir", self.folder]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def status(self):
        return json.loads(self.dev("status", "--output", "json"))

    def pid(self, node):
        return next(row["pid"] for row in self.status()["nodes"] if row["node"] == node)

    def terminate(self, node):
        pid = self.pid(node)
        os.kill(pid, signal.SIGTERM)
        while os.path.exists("/proc/%d" % pid) and open("/proc/%d/stat" % pid).read().split()[2] != "Z":
            time.sleep(0.01)


class Load:
    """Numbers to each partition in turn, from one thread."""

    def __init__(self, bootstrap, topic, config):
        self.producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0, **config})
        self.topic, self.ends = topic, False
        self.acked, self.times = collections.defaultdict(dict), collections.defaultdict(list)
        self.errors = collections.Counter()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        number = 0
        while not self.ends:
            for partition in range(PARTITIONS):
                told = lambda error, message, number=number: self.told(error, message, number)
                try:
                    self.producer.produce(self.topic, str(number).encode(), partition=partition, callback=told)
                except BufferError:
                    pass
                number += 1
            self.producer.poll(0.005)
        self.producer.flush(60)

    def told(self, error, message, number):
        if error:
            self.errors[error.name()] += 1
        else:
            self.acked[message.partition()][number] = message.offset()
            self.times[message.partition()].append(time.monotonic())

    def longest_gap(self, partition, since):
        times = [at for at in self.times[partition] if at > since] + [time.monotonic()]
        return max((after - before for before, after in zip(times, times[1:])), default=time.monotonic() - since)

    def end(self):
        self.ends = True
        self.thread.join()


class Reader:
    """A consumer of defaults, in a group of its own."""

    def __init__(self, bootstrap, topic):
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest",
                                  "log_level": 0})
        self.consumer.subscribe([topic])
        self.times, self.errors, self.ends = [], collections.Counter(), False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ends:
            for message in self.consumer.consume(10000, 0.1):
                if message.error():
                    self.errors[message.error().name()] += 1
                else:
                    self.times.append(time.monotonic())
        self.consumer.close()

    def longest_gap(self, since):
        times = [at for at in self.times if at > since] + [time.monotonic()]
        return max((after - before for before, after in zip(times, times[1:])), default=time.monotonic() - since)

    def end(self):
        self.ends = True
        self.thread.join()


def until_in_sync(admin, topic, nodes):
    began = time.monotonic()
    while time.monotonic() - began < 60:
        seen = admin.list_topics(topic, timeout=10)
        if len(seen.brokers) == nodes and all(len(p.isrs) == 3 for p in seen.topics[topic].partitions.values()):
            break
        time.sleep(0.05)
    return time.monotonic() - began


def read_back(bootstrap, topic, acked):
    """Lost, duplicated and reordered records."""
    lost = twice = reordered = 0
    for partition in range(PARTITIONS):
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic + "-all", "enable.partition.eof": True})
        consumer.assign([TopicPartition(topic, partition, 0)])
        numbers, ends = [], time.monotonic() + 60
        while time.monotonic() < ends:
            for message in consumer.consume(5000, 1.0):
                if message.error():
                    ends = 0
                else:
                    numbers.append(int(message.value()))
        consumer.close()
        once = set(numbers)
        lost += len(set(acked[partition]) - once)
        twice += len(numbers) - len(once)
        reordered += sum(after < before for before, after in zip(numbers, numbers[1:]))
    return lost, twice, reordered


def main():
    given = arguments()
    cluster = Cluster(given.highwater, given.dir)
    nodes = [row["node"] for row in cluster.status()["nodes"]]
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    topic = "failover-%d" % os.getpid()
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 3, config={"min.insync.replicas": "2"})]).values():
        made.result(30)
    until_in_sync(admin, topic, len(nodes))
    config = {} if given.defaults else {**IMPATIENT, **(PAUSED if given.what == "pause" else {})}
    load = Load(cluster.bootstrap, topic, config)
    reader = Reader(cluster.bootstrap, topic) if given.defaults else None
    time.sleep(5 if reader else 3)
    worst = []
    for number in range(given.rounds):
        leaders = {p.id: p.leader for p in admin.list_topics(topic).topics[topic].partitions.values()}
        victim = cluster.status()["controller_id"] if given.what == "controller" else leaders[0]
        hit = [p for p, leader in leaders.items() if leader == victim or given.what in ("controller", "rolling")]
        began = time.monotonic()
        if given.what == "rolling":
            for node in nodes:
                cluster.terminate(node)
                cluster.dev("start", node)
                until_in_sync(admin, topic, len(nodes))
                # Preferred leaders come back by themselves; the next node stops once they have.
                time.sleep(5)
        elif given.what == "pause":
            os.kill(cluster.pid(victim), signal.SIGSTOP)
            time.sleep(15)
        else:
            os.kill(cluster.pid(victim), signal.SIGKILL)
            time.sleep(15)
        gaps = {partition: load.longest_gap(partition, began) for partition in hit}
        worst.append(max(gaps.values()))
        words = ["round %d: %s" % (number + 1, "all nodes" if given.what == "rolling" else "node %d" % victim)]
        words.append("longest gap, s, by partition: " + " ".join("%d:%.2f" % gap for gap in gaps.items()))
        if reader:
            words.append("of the consumer: %.2f" % reader.longest_gap(began))
        print("; ".join(words), flush=True)
        if given.what == "pause":
            os.kill(cluster.pid(victim), signal.SIGCONT)
        elif given.what != "rolling":
            cluster.dev("start", victim)
        print("  all in sync %.2f s later" % until_in_sync(admin, topic, len(nodes)), flush=True)
        time.sleep(2)
    load.end()
    if reader:
        reader.end()
        print("errors of the consumer: %s" % (dict(reader.errors) or "none"))
    lost, twice, reordered = read_back(cluster.bootstrap, topic, load.acked)
    acked = sum(map(len, load.acked.values()))
    print("errors of the producer: %s; %d acked, %d lost, %d twice, %d out of order"
          % (dict(load.errors) or "none", acked, lost, twice, reordered))
    print("%s: median %.2f s, worst %.2f s of %d" % (given.what, statistics.median(worst), max(worst), len(worst)))
    sys.exit(bool(lost or (twice or reordered) and not given.defaults))


main()
