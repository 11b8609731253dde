"""A member of a group with librdkafka: range, cooperative-sticky, or the consumer protocol (KIP-848).

member_librdkafka.py BOOTSTRAP TOPIC GROUP range|cooperative|consumer
Tells on standard output what tests/groups/history.rs reads, and leaves when its standard input ends.
"""
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

bootstrap, topic, group, protocol = sys.argv[1:5]
leave = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), leave.set()), daemon=True).start()
processed = {}  # partition: where to go on; since the last commit
settings = {
    "bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
    "enable.auto.offset.store": False, "auto.offset.reset": "earliest", "log_level": 3,
    "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 300, "retry.backoff.ms": 50, "fetch.wait.max.ms": 100,
    "socket.timeout.ms": 10000, "topic.metadata.refresh.interval.ms": 2000,
}
if protocol == "consumer":
    settings["group.protocol"] = "consumer"
else:
    strategy = {"range": "range", "cooperative": "cooperative-sticky"}[protocol]
    settings.update({"partition.assignment.strategy": strategy, "session.timeout.ms": 6000,
                     "heartbeat.interval.ms": 500})


def tell(what, *rest):
    print(what, int(time.time() * 1000), *rest, flush=True)


def commit(wanted):
    offsets = {p: processed[p] for p in wanted if p in processed}
    if not offsets:
        return
    for partition, offset in offsets.items():
        tell("committing", partition, offset)
    try:
        results = consumer.commit(offsets=[TopicPartition(topic, p, o) for p, o in offsets.items()],
                                  asynchronous=False)
    except KafkaException as error:
        tell("note", "commit:", error)
        return
    for result in results:
        if result.error:
            tell("note", "commit:", result.partition, result.error)
        else:
            tell("committed", result.partition, result.offset)
            processed.pop(result.partition)


def generation():
    """From the object that transactions carry: its mark, then four bytes in the machine's order."""
    metadata = bytes(consumer.consumer_group_metadata())
    return int.from_bytes(metadata[7:11], sys.byteorder, signed=True) if metadata.startswith(b"CGMDv2:") else "-"


def changed(what, partitions):
    partitions = sorted(p.partition for p in partitions)
    if partitions:
        tell(what, generation(), ",".join(map(str, partitions)))
    if what != "revoked":
        for partition in partitions:
            processed.pop(partition, None)


def on_revoke(_, partitions):
    commit([p.partition for p in partitions])
    changed("revoked", partitions)


consumer = Consumer(settings)
consumer.subscribe([topic], on_assign=lambda _, p: changed("assigned", p), on_revoke=on_revoke,
                   on_lost=lambda _, p: changed("lost", p))
last = time.monotonic()
while not leave.is_set():
    lines = []
    for message in consumer.consume(500, timeout=0.1):
        if message.error():
            lines.append("note %d %s\n" % (int(time.time() * 1000), message.error()))
            continue
        lines.append("record %d %d %s\n" % (message.partition(), message.offset(), message.value().decode()))
        processed[message.partition()] = message.offset() + 1
    sys.stdout.write("".join(lines))
    sys.stdout.flush()
    if time.monotonic() - last > 0.5:
        commit(list(processed))
        last = time.monotonic()
commit(list(processed))
consumer.close()
tell("left")
