//! Random lives of a log against a model of it: a list of batches.

use crate::ids::*;
use crate::log::folder::LogFolder;
use crate::log::partition_log::{LogConfig, PartitionLog};
use crate::log::producers::Producers;
use crate::log::testing::{Batch, batches_in, config, open, valid};
use crate::platform::disk::room::Room;
use crate::records::batch::BatchHeader;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Append { records: i32, producer: i64, bytes: usize },
    NewEpoch,
    Flush,
    Truncate(prop::sample::Index),
    AdvanceStart(prop::sample::Index),
    Crash,
    CleanStop,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (1i32..4, -1i64..3, 0usize..200)
            .prop_map(|(records, producer, bytes)| Event::Append { records, producer, bytes }),
        2 => Just(Event::NewEpoch),
        2 => Just(Event::Flush),
        2 => any::<prop::sample::Index>().prop_map(Event::Truncate),
        1 => any::<prop::sample::Index>().prop_map(Event::AdvanceStart),
        1 => Just(Event::Crash),
        1 => Just(Event::CleanStop),
    ]
}

/// `LOG_MODEL_CASES=5000 cargo test --lib log::tests::model` looks longer.
fn cases() -> u32 {
    std::env::var("LOG_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

fn small() -> LogConfig {
    LogConfig { segment_bytes: 700, index_interval_bytes: 120, ..config() }
}

/// All batches ever appended and not truncated, deleted ones too.
#[derive(Default)]
struct Model {
    batches: Vec<(BatchHeader, Vec<u8>)>,
    start: i64,
}

impl Model {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |(h, _)| h.base_offset.0 + i64::from(h.last_offset_delta) + 1)
    }

    fn producers(&self) -> Producers {
        let mut producers = Producers::default();
        self.batches.iter().for_each(|(header, _)| producers.take_in(header, 0));
        producers
    }

    fn check(&self, log: &PartitionLog) {
        assert_eq!((log.log_start().0, log.log_end().0), (self.start, self.end()));
        assert!(log.durable_end() <= log.log_end());
        let mut from = log.log_start();
        let mut visible =
            self.batches.iter().filter(|(h, _)| h.base_offset.0 + i64::from(h.last_offset_delta) >= self.start);
        while from < log.log_end() {
            let chunk = log.reader().read(from, 500, log.log_end(), true).unwrap().bytes;
            for batch in batches_in(&chunk) {
                let (header, bytes) = visible.next().expect("no more batches than the model has");
                assert_eq!(&chunk[batch.position..batch.position + batch.size], bytes);
                assert_eq!(log.epoch_at(header.base_offset.max(log.log_start())), Some(header.leader_epoch));
                from = header.base_offset + i64::from(header.last_offset_delta) + 1;
            }
        }
        assert!(visible.next().is_none());
        let expected = self.producers();
        assert_eq!(log.producers.len(), expected.len());
        for (id, producer) in expected.iter() {
            let found = log.producers.get(id.0).unwrap();
            assert_eq!((found.epoch, found.batches()), (producer.epoch, producer.batches()));
        }
    }
}

fn live(events: Vec<Event>) {
    let data = tempfile::tempdir().unwrap();
    let mut folder = LogFolder::open_with(data.path(), false, 3, Room::of(data.path())).unwrap();
    let mut log = open(&folder, small());
    let mut model = Model::default();
    let mut epoch = 0;
    for event in events {
        match event {
            Event::Append { records, producer, bytes } => {
                let sequence =
                    model.producers().get(producer).map_or(0, |p| p.batches().last().unwrap().last_sequence + 1);
                let producer_epoch = if producer < 0 { -1 } else { 0 };
                let batch = Batch::at(model.end())
                    .epoch(epoch)
                    .records(records)
                    .producer(producer, producer_epoch, sequence)
                    .value(vec![7; bytes])
                    .bytes();
                log.append_as_leader(&valid(batch.clone()), LeaderEpoch(epoch), 0).unwrap();
                model.batches.push((BatchHeader::parse(&batch).unwrap(), batch));
            }
            Event::NewEpoch => {
                epoch += 1;
                log.begin_epoch(LeaderEpoch(epoch)).unwrap();
                assert_eq!(log.end_of_epoch(LeaderEpoch(epoch)), Some((LeaderEpoch(epoch), log.log_end())));
            }
            Event::Flush => {
                if let Some(task) = log.begin_flush() {
                    let result = task.sync();
                    assert_eq!(log.end_flush(&task, &result), log.log_end());
                }
            }
            Event::Truncate(at) => {
                let to = model.start + at.index((model.end() - model.start + 1) as usize) as i64;
                model.batches.retain(|(h, _)| h.base_offset.0 + i64::from(h.last_offset_delta) < to);
                log.truncate_to(Offset(to)).unwrap();
                model.start = model.start.min(log.log_end().0);
                // A leader's next epoch is newer than any it truncated.
                epoch += 1;
            }
            Event::AdvanceStart(at) => {
                model.start += at.index((model.end() - model.start + 1) as usize) as i64;
                log.advance_log_start(Offset(model.start)).unwrap();
            }
            Event::Crash | Event::CleanStop => {
                let clean = matches!(event, Event::CleanStop);
                if clean {
                    log.close().unwrap();
                }
                drop(log);
                drop(folder);
                folder = LogFolder::open_with(data.path(), clean, 3, Room::of(data.path())).unwrap();
                log = open(&folder, small());
                assert_eq!(log.durable_end(), log.log_end());
            }
        }
        model.check(&log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn a_log_is_its_batches(events in proptest::collection::vec(event(), 1..60)) {
        live(events);
    }
}
