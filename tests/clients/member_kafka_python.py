"""A member of a group with kafka-python: the range assignor, or cooperative-sticky.

member_kafka_python.py BOOTSTRAP TOPIC GROUP range|cooperative
Tells on standard output what tests/groups/history.rs reads, and leaves when its standard input ends.
"""
import sys
import threading
import time

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor

bootstrap, topic, group, protocol = sys.argv[1].split(","), sys.argv[2], sys.argv[3], sys.argv[4]
assignors = {"range": RangePartitionAssignor, "cooperative": CooperativeStickyAssignor}
leave = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), leave.set()), daemon=True).start()
processed = {}  # partition: where to go on; since the last commit


def tell(what, *rest):
    print(what, int(time.time() * 1000), *rest, flush=True)


def commit(wanted):
    offsets = {p: processed[p] for p in wanted if p in processed}
    if not offsets:
        return
    for partition, offset in offsets.items():
        tell("committing", partition, offset)
    try:
        consumer.commit({TopicPartition(topic, p): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()})
    except Exception as error:
        tell("note", "commit:", repr(error))
        return
    for partition, offset in offsets.items():
        tell("committed", partition, offset)
        processed.pop(partition, None)


class Listener(ConsumerRebalanceListener):
    def changed(self, what, partitions):
        partitions = sorted(p.partition for p in partitions)
        if partitions:
            tell(what, consumer._coordinator._generation.generation_id, ",".join(map(str, partitions)))
        # What is not committed by now is not: a listener runs where a commit can't be waited for.
        for partition in partitions:
            processed.pop(partition, None)

    def on_partitions_assigned(self, assigned):
        self.changed("assigned", assigned)

    def on_partitions_revoked(self, revoked):
        self.changed("revoked", revoked)

    def on_partitions_lost(self, lost):
        self.changed("lost", lost)


consumer = KafkaConsumer(
    bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
    partition_assignment_strategy=[assignors[protocol]], session_timeout_ms=6000, heartbeat_interval_ms=500,
    request_timeout_ms=15000, metadata_max_age_ms=2000, retry_backoff_ms=50, reconnect_backoff_ms=50,
    reconnect_backoff_max_ms=300, max_poll_records=500)
consumer.subscribe([topic], listener=Listener())
last = time.monotonic()
while not leave.is_set():
    lines = []
    # Long: kafka-python 3.0.12 forgets an assignment whose SyncGroup is answered after the poll that asked has given up.
    for partition, records in consumer.poll(timeout_ms=2000).items():
        lines += ["record %d %d %s\n" % (r.partition, r.offset, r.value.decode()) for r in records]
        processed[partition.partition] = records[-1].offset + 1
    sys.stdout.write("".join(lines))
    sys.stdout.flush()
    if time.monotonic() - last > 0.5:
        commit(list(processed))
        last = time.monotonic()
commit(list(processed))
consumer.close()
tell("left")
