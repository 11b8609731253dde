"""What kafka-python's admin client asks of partitions: moves and elections. Prints JSON.

python_moves.py BOOTSTRAP alter TOPIC PARTITION REPLICAS|-      the error code; "-" cancels
python_moves.py BOOTSTRAP list                                  "TOPIC-PARTITION": {replicas, adding, removing}
python_moves.py BOOTSTRAP elect TYPE TOPIC|- PARTITION          codes by partition; 0 preferred, 1 unclean; "-" for all

The client asks any broker that is listed, once. One that has just died is still listed, so it is begun anew then.
"""
import json
import sys
import time

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaConnectionError

bootstrap, command, arguments = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]


def ask(admin):
    if command == "alter":
        topic, partition, replicas = arguments
        wanted = None if replicas == "-" else [int(broker) for broker in replicas.split(",")]
        results = admin.alter_partition_reassignments({TopicPartition(topic, int(partition)): wanted})
        return [error.errno if error else 0 for error in results.values()]
    if command == "list":
        found = admin.list_partition_reassignments()
        return {"%s-%d" % (tp.topic, tp.partition): state for tp, state in found.items()}
    election, topic, partition = arguments
    partitions = None if topic == "-" else {topic: [int(partition)]}
    response = admin.elect_leaders(int(election), partitions, raise_errors=False)
    return [p.error_code for row in response.replica_election_results for p in row.partition_result]


deadline = time.monotonic() + 30
while True:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=30000)
    try:
        print(json.dumps(ask(admin)))
        break
    except KafkaConnectionError as error:
        print("again:", error, file=sys.stderr)
        if time.monotonic() > deadline:
            raise
    finally:
        admin.close()
