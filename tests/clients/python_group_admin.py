"""kafka-python's admin client looks at a group that has a member, and takes offsets that no member needs.

python_group_admin.py BOOTSTRAP GROUP TOPIC OTHER
The group has one member, which reads TOPIC; offsets of OTHER were committed by somebody else. Prints JSON: what is listed
by state and type, how the group is described, its offsets before and after, and what became of each deletion.
"""
import json
import sys

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

bootstrap, group, topic, other = sys.argv[1].split(","), sys.argv[2], sys.argv[3], sys.argv[4]
admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=30000)


def names(**filters):
    return sorted(listed["group_id"] for listed in admin.list_groups(**filters))


def offsets():
    found = admin.list_group_offsets({group: None})[group]
    return sorted([tp.topic, tp.partition, at.offset, at.metadata] for tp, at in found.items() if at.offset >= 0)


described = admin.describe_groups([group])[group]
before = offsets()
deleted = admin.delete_group_offsets(group, [TopicPartition(topic, 0), TopicPartition(other, 0), TopicPartition("no", 0)])
try:
    admin.delete_group_offsets("nobody", [TopicPartition(topic, 0)])
    unknown = None
except KafkaError as error:
    unknown = type(error).__name__
print(json.dumps({
    "stable": names(states_filter=["Stable"]), "empty": names(states_filter=["Empty"]),
    "classic": names(types_filter=["classic"]), "share": names(types_filter=["share"]),
    "state": described["group_state"], "members": len(described["members"]),
    "before": before, "after": offsets(), "unknown": unknown,
    "deleted": {f"{tp.topic}-{tp.partition}": error.__name__ for tp, error in deleted.items()}}))
admin.close()
