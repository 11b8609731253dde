"""What kafka-python's admin client asks of partitions: moves and elections. Prints JSON.

python_moves.py BOOTSTRAP alter TOPIC PARTITION REPLICAS|-      the error code; "-" cancels
python_moves.py BOOTSTRAP list                                  "TOPIC-PARTITION": {replicas, adding, removing}
python_moves.py BOOTSTRAP elect TYPE TOPIC|- PARTITION          codes by partition; 0 preferred, 1 unclean; "-" for all
"""
import json
import sys

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

bootstrap, command, arguments = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=30000)
if command == "alter":
    topic, partition, replicas = arguments
    wanted = None if replicas == "-" else [int(broker) for broker in replicas.split(",")]
    results = admin.alter_partition_reassignments({TopicPartition(topic, int(partition)): wanted})
    print(json.dumps([error.errno if error else 0 for error in results.values()]))
elif command == "list":
    found = admin.list_partition_reassignments()
    print(json.dumps({"%s-%d" % (tp.topic, tp.partition): state for tp, state in found.items()}))
else:
    election, topic, partition = arguments
    partitions = None if topic == "-" else {topic: [int(partition)]}
    response = admin.elect_leaders(int(election), partitions, raise_errors=False)
    print(json.dumps([p.error_code for row in response.replica_election_results for p in row.partition_result]))
admin.close()
