//! DescribeLogDirs (KIP-113, KIP-827): where this broker's logs lie, their bytes, and the room there is.
//!
//! A broker has one log folder. Only what has a replica here is answered: kafka-reassign-partitions and kafka-log-dirs ask
//! each broker for its own.

use crate::kafka::context::RequestContext;
use crate::kafka::errors::Code;
use crate::kafka::names::{text, topic_name};
use crate::platform::disk;
use crate::replica::partition::PartitionStatus;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// Sizes of the file system, of a client that asks for none, and where none are known.
const UNKNOWN: i64 = -1;

pub async fn describe(context: &RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let services = context.services.clone();
    // The size of a file system is asked of the kernel, which may have to ask a disk.
    let read = tokio::task::spawn_blocking(move || {
        let folder = services.hosted.folder();
        if folder.is_offline() {
            return refused(folder.path());
        }
        let asked = Asked::of(&request);
        let mut rows: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
        for partition in services.hosted.all() {
            if asked.has(&partition.topic, partition.id.partition) {
                let row = of_partition(partition.id.partition, &partition.status());
                rows.entry(partition.topic.to_string()).or_default().push(row);
            }
        }
        let space = (disk::total_space(folder.path()), disk::free_space(folder.path()));
        found(folder.path(), rows, space)
    });
    match read.await {
        Ok(dir) => DescribeLogDirsResponse::default().with_results(vec![dir]),
        // The node is stopping.
        Err(_) => DescribeLogDirsResponse::default(),
    }
}

/// The topics and partitions of a request; `None`: all.
struct Asked<'a>(Option<BTreeMap<&'a str, BTreeSet<i32>>>);

impl Asked<'_> {
    fn of(request: &DescribeLogDirsRequest) -> Asked<'_> {
        let named = request.topics.as_ref().map(|topics| {
            let mut named: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
            for topic in topics {
                named.entry(&topic.topic).or_default().extend(&topic.partitions);
            }
            named
        });
        Asked(named)
    }

    fn has(&self, topic: &str, partition: i32) -> bool {
        self.0.as_ref().is_none_or(|named| named.get(topic).is_some_and(|numbers| numbers.contains(&partition)))
    }
}

fn of_partition(partition: i32, status: &PartitionStatus) -> DescribeLogDirsPartition {
    let behind = status.high_watermark.0 - status.log_end.0;
    DescribeLogDirsPartition::default()
        .with_partition_index(partition)
        .with_partition_size(i64::try_from(status.size_bytes).unwrap_or(i64::MAX))
        .with_offset_lag(behind.max(0))
}

fn found(
    folder: &Path,
    rows: BTreeMap<String, Vec<DescribeLogDirsPartition>>,
    (total, free): (io::Result<u64>, io::Result<u64>),
) -> DescribeLogDirsResult {
    let bytes = |told: io::Result<u64>| told.ok().and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(UNKNOWN);
    let topics = rows.into_iter().map(|(topic, mut partitions)| {
        partitions.sort_by_key(|row| row.partition_index);
        DescribeLogDirsTopic::default().with_name(topic_name(&topic)).with_partitions(partitions)
    });
    of_folder(folder).with_topics(topics.collect()).with_total_bytes(bytes(total)).with_usable_bytes(bytes(free))
}

/// After a disk error nothing of the folder is served.
fn refused(folder: &Path) -> DescribeLogDirsResult {
    of_folder(folder)
        .with_error_code(Code::KafkaStorageError.code())
        .with_total_bytes(UNKNOWN)
        .with_usable_bytes(UNKNOWN)
}

fn of_folder(folder: &Path) -> DescribeLogDirsResult {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    DescribeLogDirsResult::default().with_log_dir(text(&absolute.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;
    use crate::kafka::handlers::metadata::testing;
    use crate::kafka::versions::DESCRIBE_LOG_DIRS;
    use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;

    fn status(high_watermark: i64, log_end: i64) -> PartitionStatus {
        PartitionStatus {
            leader_epoch: LeaderEpoch(3),
            is_leader: false,
            log_start: Offset(0),
            high_watermark: Offset(high_watermark),
            log_end: Offset(log_end),
            durable_end: Offset(log_end),
            size_bytes: 4_096,
            last_epoch: LeaderEpoch(3),
            followers: Vec::new(),
        }
    }

    #[test]
    fn every_version_encodes_a_folder_and_one_that_is_offline() {
        let rows = vec![of_partition(7, &status(10, 4)), of_partition(2, &status(10, 12))];
        let of_one = found(
            Path::new("data/partitions"),
            BTreeMap::from([("t".to_string(), rows)]),
            (Ok(100), Err(io::ErrorKind::Other.into())),
        );
        assert!(of_one.log_dir.starts_with('/') && of_one.log_dir.ends_with("/data/partitions"), "{}", of_one.log_dir);
        assert_eq!((of_one.total_bytes, of_one.usable_bytes), (100, UNKNOWN));
        let told: Vec<_> =
            of_one.topics[0].partitions.iter().map(|p| (p.partition_index, p.partition_size, p.offset_lag)).collect();
        assert_eq!(told, [(2, 4_096, 0), (7, 4_096, 6)], "in order; who is past the high watermark lags by nothing");
        let offline = refused(Path::new("/data"));
        assert_eq!((offline.error_code, offline.topics.len()), (56, 0));
        let response = DescribeLogDirsResponse::default().with_results(vec![of_one, offline]);
        for version in 1..=4 {
            testing::encodes(DESCRIBE_LOG_DIRS, version, &response);
        }
    }

    #[test]
    fn no_list_asks_for_all_and_an_empty_one_for_nothing() {
        let topic = |name, partitions: &[i32]| {
            DescribableLogDirTopic::default().with_topic(topic_name(name)).with_partitions(partitions.to_vec())
        };
        let asks = |topics, name, partition| {
            Asked::of(&DescribeLogDirsRequest::default().with_topics(topics)).has(name, partition)
        };
        assert!(asks(None, "t", 3));
        assert!(!asks(Some(Vec::new()), "t", 3));
        let twice = || Some(vec![topic("t", &[1]), topic("t", &[3, 3]), topic("u", &[])]);
        assert!(asks(twice(), "t", 1) && asks(twice(), "t", 3));
        assert!(!asks(twice(), "t", 2) && !asks(twice(), "u", 0) && !asks(twice(), "v", 1));
    }
}
