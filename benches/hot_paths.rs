//! What a produce costs before it reaches the log: guard, decode, header and CRC checks.
//!
//! `cargo bench --bench hot_paths`

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use highwater::records::{BatchBuilder, ValidBatches};
use highwater::wire::{codec, guard};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::{Encodable, StrBytes};
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

criterion_group!(benches, produce);
criterion_main!(benches);
