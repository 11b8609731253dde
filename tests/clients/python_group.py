"""kafka-python as its documentation shows it: a producer with keys and callbacks, consumers that share a group.

python_group.py BOOTSTRAP TOPIC COUNT [ready-file]
Produces COUNT keyed records with callbacks while two members of one group consume them, then stops one member (a
rebalance) and goes on. Prints one line of JSON: acked, consumed, duplicates, partitions by key, members' assignments.
If a ready-file is given it is written once a third of the records is acked: the caller kills a node then.
"""
import json
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer

bootstrap, topic, count = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])
ready_file = sys.argv[4] if len(sys.argv) > 4 else None
acked, failed, lock = {}, [], threading.Lock()


def on_success(value):
    def done(metadata):
        with lock:
            acked[value] = (metadata.partition, metadata.offset)
    return done


def on_error(error):
    failed.append(repr(error))


consumed, assignments, stop = [], {}, [threading.Event(), threading.Event()]


def consume(member):
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=topic + "-group", auto_offset_reset="earliest",
        session_timeout_ms=6000, heartbeat_interval_ms=500, request_timeout_ms=30000, metadata_max_age_ms=1000)
    while not stop[member].is_set():
        # Long: kafka-python 3.0.12 forgets an assignment whose SyncGroup is answered after the poll that asked has given up.
        for partition, records in consumer.poll(timeout_ms=2000).items():
            with lock:
                consumed.extend((r.partition, r.offset, r.key.decode(), int(r.value)) for r in records)
        with lock:
            assignments[member] = sorted(tp.partition for tp in consumer.assignment())
    consumer.close()


threads = [threading.Thread(target=consume, args=(member,), daemon=True) for member in (0, 1)]
for thread in threads:
    thread.start()
producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", retries=1000, linger_ms=5,
                         max_block_ms=60000, request_timeout_ms=5000, delivery_timeout_ms=120000)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:  # both members hold a share
    with lock:
        if len(assignments) == 2 and all(assignments.values()):
            break
    time.sleep(0.05)
shared = dict(assignments)
for n in range(count):
    producer.send(topic, key=b"key-%d" % (n % 17), value=b"%d" % n).add_callback(on_success(n)).add_errback(on_error)
    if n == count // 3:
        producer.flush(60)
        if ready_file:
            open(ready_file, "w").close()
    if n == count * 2 // 3:
        stop[0].set()  # one member leaves: the other takes all
    if n % 50 == 0:
        time.sleep(0.02)
producer.flush(90)
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    with lock:
        if {c[3] for c in consumed} >= set(acked):
            break
    time.sleep(0.05)
with lock:
    alone = assignments.get(1)
stop[1].set()
for thread in threads:
    thread.join(20)
by_key = {}
for partition, _, key, _ in consumed:
    by_key.setdefault(key, set()).add(partition)
print(json.dumps({
    "acked": len(acked), "failed": failed[:5],
    "missing": sorted(set(acked) - {c[3] for c in consumed})[:10],
    "consumed": len(consumed),
    "keys_on_many_partitions": [k for k, p in by_key.items() if len(p) != 1],
    "conflicting_offsets": len({(c[0], c[1]) for c in consumed}) != len({(c[0], c[1], c[3]) for c in consumed}),
    "shared": shared, "alone": alone}))
