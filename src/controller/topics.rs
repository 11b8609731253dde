//! Creating and deleting topics, adding partitions: names, bounds, placement.

use super::placement::{self, Load};
use super::plan::{COMMAND_BYTES_MAX, Item, PARTITIONS_PER_COMMAND_MAX, Packer, Plan, TOPICS_PER_COMMAND_MAX};
use crate::config::broker::NodeConfig;
use crate::config::topic;
use crate::ids::*;
use crate::metadata::command::{Command, MetadataError, NewPartitions, NewTopic};
use crate::metadata::group_partition::has_fixed_partitions;
use crate::metadata::image::Image;
use crate::metadata::intent::{IntentError, PartitionsIntent, TopicIntent, TopicOutcome};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions one request may ask of one topic: their assignments must fit one command.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 10_000;
/// Partitions all topics of one request may ask for.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 50_000;
/// Longest topic name, in bytes: it must fit a folder's name with the partition behind it.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// What a topic gets where its request says −1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    pub partitions: i32,
    /// `None`: min(3, registered brokers).
    pub replication_factor: Option<i16>,
}

impl Defaults {
    pub fn of(config: &NodeConfig) -> Defaults {
        Defaults {
            partitions: i32::try_from(config.kafka.int("num.partitions")).unwrap_or(1),
            replication_factor: i16::try_from(config.kafka.int("default.replication.factor")).ok().filter(|f| *f > 0),
        }
    }
}

/// Checks a topic's name by Kafka's rules.
pub fn check_name(name: &str) -> Result<(), IntentError> {
    let wrong = |why: &str| Err(IntentError::InvalidTopicName(format!("topic name '{name}' {why}")));
    if name.is_empty() {
        return Err(IntentError::InvalidTopicName("a topic name must not be empty".to_string()));
    }
    if name == "." || name == ".." {
        return wrong("is not allowed");
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        // Not repeated in the message: it came from outside and is long.
        return Err(IntentError::InvalidTopicName(format!(
            "the topic name is {} bytes long, {TOPIC_NAME_BYTES_MAX} are allowed",
            name.len()
        )));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return wrong("has a character other than ASCII letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

/// Plans new topics. `loads` grows by what is placed, `fresh_id` names each topic.
pub fn create(
    image: &Image,
    defaults: Defaults,
    loads: &mut BTreeMap<BrokerId, Load>,
    seed: u64,
    topics: Vec<TopicIntent>,
    validate_only: bool,
    mut fresh_id: impl FnMut() -> TopicId,
) -> Plan<TopicOutcome> {
    let mut packer = Packer::new(TOPICS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let mut names = BTreeSet::new();
    let mut asked = 0usize;
    let items = topics
        .into_iter()
        .enumerate()
        .map(|(number, intent)| {
            let placed = check_new(image, &intent, &mut names)
                .and_then(|()| assignments_of(image, defaults, loads, seed.wrapping_add(number as u64), &intent))
                .and_then(|assignments| {
                    asked += assignments.len();
                    within_request(asked).map(|()| assignments)
                });
            let assignments = match placed {
                Ok(assignments) => assignments,
                Err(error) => return Item::Decided(Err(error)),
            };
            let mut outcome = TopicOutcome {
                id: TopicId::default(),
                partitions: count_of(&assignments),
                replication_factor: i16::try_from(assignments.first().map_or(0, Vec::len)).unwrap_or(i16::MAX),
            };
            if validate_only {
                return Item::Decided(Ok(outcome));
            }
            assignments.iter().for_each(|replicas| placement::add_replicas(loads, replicas));
            outcome.id = fresh_id();
            let weight = assignments.len();
            let topic = NewTopic { name: intent.name, id: outcome.id, assignments, configs: intent.configs };
            proposed(packer.add(topic, weight), outcome)
        })
        .collect();
    Plan { commands: packer.into_commands(|topics| Command::CreateTopics { topics }), items }
}

/// Plans more partitions for topics that exist.
pub fn grow(
    image: &Image,
    loads: &mut BTreeMap<BrokerId, Load>,
    seed: u64,
    topics: Vec<PartitionsIntent>,
    validate_only: bool,
) -> Plan<TopicOutcome> {
    let mut packer = Packer::new(TOPICS_PER_COMMAND_MAX, PARTITIONS_PER_COMMAND_MAX);
    let mut names = BTreeSet::new();
    let mut asked = 0usize;
    let items = topics
        .into_iter()
        .enumerate()
        .map(|(number, intent)| {
            let grown = if names.insert(intent.topic.clone()) {
                more_partitions(image, loads, seed.wrapping_add(number as u64), &intent)
            } else {
                Err(IntentError::InvalidRequest(format!("topic '{}' appears twice in the request", intent.topic)))
            };
            let grown = grown.and_then(|(new, factor)| {
                asked += new.assignments.len();
                within_request(asked).map(|()| (new, factor))
            });
            let (new, factor) = match grown {
                Ok(grown) => grown,
                Err(error) => return Item::Decided(Err(error)),
            };
            let outcome = TopicOutcome { id: new.topic, partitions: intent.count, replication_factor: factor };
            if validate_only {
                return Item::Decided(Ok(outcome));
            }
            new.assignments.iter().for_each(|replicas| placement::add_replicas(loads, replicas));
            let weight = new.assignments.len();
            proposed(packer.add(new, weight), outcome)
        })
        .collect();
    Plan { commands: packer.into_commands(|topics| Command::CreatePartitions { topics }), items }
}

/// Plans deletions. A topic that is unknown here is answered so without a commit.
pub fn delete(image: &Image, topics: Vec<TopicId>) -> Plan<()> {
    let mut packer = Packer::new(TOPICS_PER_COMMAND_MAX, 10 * PARTITIONS_PER_COMMAND_MAX);
    let mut seen = BTreeSet::new();
    let items = topics
        .into_iter()
        .map(|id| match image.topic(id) {
            Some(topic) if seen.insert(id) => proposed(packer.add(id, topic.partitions.len()), ()),
            _ => Item::Decided(Err(MetadataError::UnknownTopic.into())),
        })
        .collect();
    Plan { commands: packer.into_commands(|topics| Command::DeleteTopics { topics }), items }
}

fn proposed<T>(place: Result<(usize, usize), super::plan::TooLarge>, outcome: T) -> Item<T> {
    match place {
        Ok((command, position)) => Item::Proposed { command, position, outcome },
        Err(too_large) => Item::Decided(Err(IntentError::InvalidRequest(format!(
            "the topic takes {} bytes of metadata, {COMMAND_BYTES_MAX} are allowed in one step: create it with fewer \
             partitions or configs and add the rest after",
            too_large.bytes
        )))),
    }
}

fn check_new(image: &Image, intent: &TopicIntent, names: &mut BTreeSet<String>) -> Result<(), IntentError> {
    check_name(&intent.name)?;
    if !names.insert(intent.name.clone()) {
        return Err(IntentError::InvalidRequest(format!("topic '{}' appears twice in the request", intent.name)));
    }
    if image.topic_ids.contains_key(&intent.name) {
        return Err(MetadataError::TopicExists(intent.name.clone()).into());
    }
    for (name, value) in &intent.configs {
        topic::validate(name, value).map_err(|e| IntentError::InvalidConfig(e.to_string()))?;
    }
    Ok(())
}

fn assignments_of(
    image: &Image,
    defaults: Defaults,
    loads: &BTreeMap<BrokerId, Load>,
    seed: u64,
    intent: &TopicIntent,
) -> Result<Vec<Vec<BrokerId>>, IntentError> {
    if let Some(given) = &intent.assignments {
        if intent.partitions != -1 || intent.replication_factor != -1 {
            return Err(IntentError::InvalidRequest(
                "with explicit replica assignments, partitions and replication factor must both be -1".to_string(),
            ));
        }
        check_assignments(image, given, None)?;
        return Ok(given.clone());
    }
    let partitions = if intent.partitions == -1 { defaults.partitions } else { intent.partitions };
    let partitions = bounded_count(partitions)?;
    let factor = match intent.replication_factor {
        -1 => defaults
            .replication_factor
            .map_or(image.brokers.values().filter(|b| !b.draining).count().min(3), |f| usize::try_from(f).unwrap_or(0)),
        given => usize::try_from(given).unwrap_or(0),
    };
    if factor == 0 {
        return Err(IntentError::InvalidReplicationFactor(if image.brokers.is_empty() {
            "no broker is registered yet; retry when one is".to_string()
        } else {
            "the replication factor must be at least 1, or -1 for the default".to_string()
        }));
    }
    placed(image, loads, partitions, factor, seed)
}

fn placed(
    image: &Image,
    loads: &BTreeMap<BrokerId, Load>,
    partitions: usize,
    factor: usize,
    seed: u64,
) -> Result<Vec<Vec<BrokerId>>, IntentError> {
    placement::place(&placement::candidates(image, loads), partitions, factor, seed)
        .map_err(|e| IntentError::InvalidReplicationFactor(e.to_string()))
}

fn more_partitions(
    image: &Image,
    loads: &BTreeMap<BrokerId, Load>,
    seed: u64,
    intent: &PartitionsIntent,
) -> Result<(NewPartitions, i16), IntentError> {
    let topic = image.topic_by_name(&intent.topic).ok_or(MetadataError::UnknownTopic)?;
    let current = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if has_fixed_partitions(&intent.topic) {
        return Err(IntentError::InvalidPartitions(format!(
            "topic '{}' keeps its {current} partitions: what is hashed to them would lose its coordinator",
            intent.topic
        )));
    }
    if intent.count <= current {
        return Err(IntentError::InvalidPartitions(format!(
            "topic '{}' has {current} partitions already; {} were asked for and partitions cannot be removed",
            intent.topic, intent.count
        )));
    }
    let added = bounded_count(intent.count - current)?;
    let factor = topic.partitions.iter().next().map_or(1, |p| p.replicas.len());
    let assignments = match &intent.assignments {
        None => placed(image, loads, added, factor, seed)?,
        Some(given) if given.len() == added => {
            check_assignments(image, given, Some(factor))?;
            given.clone()
        }
        Some(given) => {
            return Err(IntentError::InvalidReplicaAssignment(format!(
                "{added} partitions would be added but {} assignments are given",
                given.len()
            )));
        }
    };
    let new = NewPartitions { topic: topic.id, expected_count: current, assignments };
    Ok((new, i16::try_from(factor).unwrap_or(i16::MAX)))
}

/// Explicit assignments: none empty, one size, no broker twice, all registered, and one active at least.
fn check_assignments(image: &Image, assignments: &[Vec<BrokerId>], factor: Option<usize>) -> Result<(), IntentError> {
    let wrong = |why: String| Err(IntentError::InvalidReplicaAssignment(why));
    bounded_count(count_of(assignments))?;
    let factor = factor.unwrap_or_else(|| assignments.first().map_or(0, Vec::len));
    for (partition, replicas) in assignments.iter().enumerate() {
        if replicas.is_empty() {
            return wrong(format!("partition {partition} has no replicas"));
        }
        if replicas.len() != factor {
            return wrong(format!(
                "partition {partition} has {} replicas where the topic's other partitions have {factor}",
                replicas.len()
            ));
        }
        if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
            return wrong(format!("partition {partition} names a broker twice"));
        }
        if let Some(unknown) = replicas.iter().find(|id| !image.brokers.contains_key(*id)) {
            return wrong(format!("partition {partition} names broker {unknown}, which is not registered"));
        }
        if let Some(drained) = replicas.iter().find(|id| image.is_draining(**id)) {
            return wrong(format!("partition {partition} names broker {drained}, which is being drained"));
        }
        if !replicas.iter().any(|id| image.brokers.get(id).is_some_and(|b| b.is_active())) {
            return wrong(format!("every broker of partition {partition} is fenced or shutting down"));
        }
    }
    Ok(())
}

/// A count may not make this node allocate before it is known to be reasonable.
fn bounded_count(count: i32) -> Result<usize, IntentError> {
    if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&count) {
        return Ok(usize::try_from(count).unwrap_or(0));
    }
    Err(IntentError::InvalidPartitions(format!(
        "{count} partitions were asked for; 1 to {PARTITIONS_PER_TOPIC_MAX} are allowed in one step"
    )))
}

fn within_request(asked: usize) -> Result<(), IntentError> {
    if asked <= PARTITIONS_PER_REQUEST_MAX {
        return Ok(());
    }
    Err(IntentError::InvalidPartitions(format!(
        "one request may create {PARTITIONS_PER_REQUEST_MAX} partitions at most; send the rest in another"
    )))
}

fn count_of(assignments: &[Vec<BrokerId>]) -> i32 {
    i32::try_from(assignments.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{image_with, topic};
    use super::*;

    const DEFAULTS: Defaults = Defaults { partitions: 4, replication_factor: None };

    fn intent(name: &str, partitions: i32, replication_factor: i16) -> TopicIntent {
        TopicIntent { name: name.into(), partitions, replication_factor, assignments: None, configs: BTreeMap::new() }
    }

    fn create_on(image: &Image, topics: Vec<TopicIntent>, validate_only: bool) -> Plan<TopicOutcome> {
        let mut next = 0u128;
        create(image, DEFAULTS, &mut BTreeMap::new(), 1, topics, validate_only, || {
            next += 1;
            TopicId(uuid::Uuid::from_u128(next))
        })
    }

    fn decided<T: Clone>(plan: &Plan<T>, item: usize) -> Result<T, IntentError> {
        match &plan.items[item] {
            Item::Decided(result) => result.clone(),
            Item::Proposed { .. } => panic!("item {item} was proposed"),
        }
    }

    #[test]
    fn names_by_kafkas_rules() {
        for good in ["a", "orders", "a.b_c-D9", "...", &"x".repeat(249)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", "a:b", &"x".repeat(250)] {
            assert!(matches!(check_name(bad), Err(IntentError::InvalidTopicName(_))), "{bad:?}");
        }
    }

    #[test]
    fn defaults_and_bounds() {
        let image = image_with(&[1, 2, 3, 4]);
        let plan = create_on(&image, vec![intent("a", -1, -1)], false);
        let Command::CreateTopics { topics } = &plan.commands[0] else { panic!() };
        assert_eq!(topics[0].assignments.len(), 4);
        assert!(topics[0].assignments.iter().all(|r| r.len() == 3), "min(3, brokers) when unset");

        let plan = create_on(
            &image,
            vec![
                intent("zero", 0, 1),
                intent("huge", i32::MAX, 3),
                intent("wide", 1, 5),
                intent("none", 1, 0),
                intent("twice", 1, 1),
                intent("twice", 1, 1),
            ],
            true,
        );
        assert!(plan.commands.is_empty(), "validate_only commits nothing");
        assert!(matches!(decided(&plan, 0), Err(IntentError::InvalidPartitions(_))));
        assert!(matches!(decided(&plan, 1), Err(IntentError::InvalidPartitions(_))));
        assert!(matches!(decided(&plan, 2), Err(IntentError::InvalidReplicationFactor(_))));
        assert!(matches!(decided(&plan, 3), Err(IntentError::InvalidReplicationFactor(_))));
        assert_eq!(decided(&plan, 4).unwrap().replication_factor, 1);
        assert!(matches!(decided(&plan, 5), Err(IntentError::InvalidRequest(_))));
    }

    #[test]
    fn many_partitions_split_into_commands() {
        let image = image_with(&[1, 2, 3]);
        let plan = create_on(&image, (0..6).map(|n| intent(&format!("t{n}"), 400, 3)).collect(), false);
        assert_eq!(plan.commands.len(), 3, "two topics of 400 partitions a command");
        let plan = create_on(&image, vec![intent("big", 5_000, 3)], false);
        assert_eq!(plan.commands.len(), 1, "one topic is never split");
        let bytes = crate::metadata::raft::types::encoded_size(&plan.commands[0]).unwrap();
        assert!(bytes < 256 * 1024, "{bytes}");
    }

    #[test]
    fn explicit_assignments_are_checked() {
        let image = image_with(&[1, 2, 3]);
        let with = |assignments: Vec<Vec<i32>>| {
            let assignments = assignments.into_iter().map(|r| r.into_iter().map(BrokerId).collect()).collect();
            TopicIntent { assignments: Some(assignments), ..intent("t", -1, -1) }
        };
        let plan = create_on(&image, vec![with(vec![vec![1, 2], vec![2, 3]])], true);
        assert_eq!(decided(&plan, 0).unwrap().partitions, 2);
        for wrong in [vec![vec![1, 1]], vec![vec![1, 2], vec![3]], vec![vec![9]], vec![vec![]]] {
            let plan = create_on(&image, vec![with(wrong.clone())], true);
            assert!(matches!(decided(&plan, 0), Err(IntentError::InvalidReplicaAssignment(_))), "{wrong:?}");
        }
    }

    #[test]
    fn growing_continues_from_what_is_there() {
        let mut image = image_with(&[1, 2, 3]);
        topic(&mut image, "t", 7, &[&[1, 2], &[2, 3]]);
        let ask = |count| PartitionsIntent { topic: "t".into(), count, assignments: None };
        let plan = grow(&image, &mut placement::count_loads(&image), 1, vec![ask(4)], false);
        let Command::CreatePartitions { topics } = &plan.commands[0] else { panic!() };
        assert_eq!((topics[0].expected_count, topics[0].assignments.len()), (2, 2));
        assert_eq!(topics[0].assignments[0][0], BrokerId(3), "broker 3 leads nothing yet");
        for count in [2, 1, -1] {
            let plan = grow(&image, &mut BTreeMap::new(), 1, vec![ask(count)], false);
            assert!(matches!(decided(&plan, 0), Err(IntentError::InvalidPartitions(_))));
        }
        // What groups hash to stays where it is, also where somebody only asks.
        topic(&mut image, "__consumer_offsets", 8, &[&[1, 2]]);
        let offsets = PartitionsIntent { topic: "__consumer_offsets".into(), ..ask(2) };
        for validate_only in [false, true] {
            let plan = grow(&image, &mut BTreeMap::new(), 1, vec![offsets.clone()], validate_only);
            assert!(matches!(decided(&plan, 0), Err(IntentError::InvalidPartitions(_))));
        }
    }

    #[test]
    fn deleting_an_unknown_topic_commits_nothing() {
        let mut image = image_with(&[1]);
        let id = topic(&mut image, "t", 7, &[&[1]]);
        let plan = delete(&image, vec![TopicId::default(), id, id]);
        assert_eq!(plan.commands, vec![Command::DeleteTopics { topics: vec![id] }]);
        assert!(decided(&plan, 0).is_err() && decided(&plan, 2).is_err());
    }
}
