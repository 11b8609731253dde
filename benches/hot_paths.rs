//! What a produce costs before it reaches the log: guard, decode, header and CRC checks; and what an assignment of a
//! large consumer group costs, which is computed under the group's lock.
//!
//! `cargo bench --bench hot_paths`

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use highwater::group::assignor::{Assignor, Owned, Subscriber, TopicShape, Topics, assign};
use highwater::ids::TopicId;
use highwater::records::{BatchBuilder, ValidBatches};
use highwater::wire::{codec, guard};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::{Encodable, StrBytes};
use std::collections::BTreeSet;
use std::hint::black_box;

const PRODUCE: i16 = 0;
const VERSION: i16 = 9;

fn batch(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.append(1, None, Some(&[7; 1024]), &[]);
    }
    builder.build().expect("a batch")
}

fn body(records: Bytes) -> Bytes {
    let data = PartitionProduceData::default().with_records(Some(records));
    let topic =
        TopicProduceData::default().with_name(StrBytes::from_static_str("t").into()).with_partition_data(vec![data]);
    let mut body = bytes::BytesMut::new();
    ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]).encode(&mut body, VERSION).expect("encodes");
    body.freeze()
}

fn produce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("produce");
    for records in [1, 100, 900] {
        let batch = batch(records);
        let body = body(batch.clone());
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(format!("guard/{records}"), |bench| {
            bench.iter(|| guard::check_request(PRODUCE, VERSION, black_box(&body)));
        });
        group.bench_function(format!("decode/{records}"), |bench| {
            bench.iter(|| codec::decode_request::<ProduceRequest>(PRODUCE, VERSION, black_box(body.clone())));
        });
        group.bench_function(format!("validate/{records}"), |bench| {
            bench.iter(|| ValidBatches::from_client(black_box(batch.clone())));
        });
    }
    group.finish();
}

/// 1,000 members, 10,000 partitions: the first assignment, and one after a member was replaced. `mixed`: subscriptions
/// differ.
fn assignors(criterion: &mut Criterion) {
    let ids: Vec<TopicId> = (1..=100).map(|n| TopicId(uuid::Uuid::from_u128(n))).collect();
    let topics: Topics = ids.iter().map(|id| (*id, TopicShape { partitions: 100, racks: Vec::new() })).collect();
    let names: Vec<String> = (0..=1_000).map(|n| format!("member-{n:04}")).collect();
    let nothing = Owned::new();
    let mut group = criterion.benchmark_group("assignors");
    group.sample_size(10);
    for assignor in Assignor::ALL {
        for (kind, left_out) in [("alike", usize::MAX), ("mixed", 7)] {
            let wanted: Vec<BTreeSet<TopicId>> = (0..=1_000)
                .map(|member| {
                    let kept =
                        ids.iter().enumerate().filter(|(n, _)| left_out == usize::MAX || (n + member) % left_out != 0);
                    kept.map(|(_, id)| *id).collect()
                })
                .collect();
            let subscriber =
                |n: usize, held| Subscriber { id: &names[n], instance: None, rack: None, topics: &wanted[n], held };
            let first: Vec<Subscriber<'_>> = (0..1_000).map(|n| subscriber(n, &nothing)).collect();
            let held = assign(assignor, &first, &topics);
            let second: Vec<_> = (1..=1_000).map(|n| subscriber(n, held.get(n).unwrap_or(&nothing))).collect();
            for (step, members) in [("first", &first), ("next", &second)] {
                group.bench_function(format!("{}/{kind}/{step}", assignor.name()), |bench| {
                    bench.iter(|| assign(assignor, black_box(members), &topics));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, produce, assignors);
criterion_main!(benches);
