"""A kafka-python group resumes where it stopped.

python_resume.py BOOTSTRAP TOPIC COUNT
Reads half of COUNT records and commits, closes, then reads the rest as a new member. Prints JSON: first, second, overlap;
on standard error what the client says of itself.
"""
import json
import logging
import sys
import time

from kafka import KafkaConsumer

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
bootstrap, topic, count = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])


def read(wanted):
    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=topic + "-resume", enable_auto_commit=False,
                             auto_offset_reset="earliest", max_poll_records=max(1, wanted // 4), session_timeout_ms=6000)
    got, deadline = [], time.monotonic() + 60
    while len(got) < wanted and time.monotonic() < deadline:
        # Long: kafka-python 3.0.12 forgets an assignment whose SyncGroup is answered after the poll that asked has given up.
        for records in consumer.poll(timeout_ms=2000).values():
            got.extend((r.partition, r.offset) for r in records)
        consumer.commit()
    consumer.close()
    return got


first = read(count // 2)
second = read(count - len(first))
print(json.dumps({"first": len(first), "second": len(second), "overlap": len(set(first) & set(second)),
                  "all": len(set(first) | set(second))}))
