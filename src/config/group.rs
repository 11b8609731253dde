//! Configs of a consumer group (the GROUP resource), over the brokers' `group.consumer.*`.

use super::broker::BrokerConfigs;
use super::definition::{self, ConfigError, Definition, Kind};

pub const SESSION_TIMEOUT: &str = "consumer.session.timeout.ms";
pub const HEARTBEAT_INTERVAL: &str = "consumer.heartbeat.interval.ms";

const I32: i64 = i32::MAX as i64;

/// Sorted by name.
const DEFINITIONS: &[Definition] = &[
    Definition {
        name: HEARTBEAT_INTERVAL,
        default: "3000",
        kind: Kind::Int { min: 1, max: I32 },
        doc: "How often members of the consumer protocol are told to send heartbeats (Kafka: 5000).",
        broker_synonym: Some("group.consumer.heartbeat.interval.ms"),
    },
    Definition {
        name: SESSION_TIMEOUT,
        default: "45000",
        kind: Kind::Int { min: 1, max: I32 },
        doc: "Silence after which a member of the consumer protocol is out of the group.",
        broker_synonym: Some("group.consumer.session.timeout.ms"),
    },
];

/// All group configs, sorted by name.
pub fn definitions() -> &'static [Definition] {
    DEFINITIONS
}

/// Checks one group config before it is set, against the brokers' bounds too.
pub fn validate(name: &str, value: &str, broker: &BrokerConfigs) -> Result<(), ConfigError> {
    definition::find(DEFINITIONS, name)?.check(value)?;
    let number: i64 = value.trim().parse().map_err(|_| ConfigError(format!("{name} is a number")))?;
    let (min, max) = match name {
        SESSION_TIMEOUT => ("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
        _ => ("group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
    };
    if !(broker.int(min)..=broker.int(max)).contains(&number) {
        let (low, high) = (broker.int(min), broker.int(max));
        return Err(ConfigError(format!("{name} must be from {low} ({min}) to {high} ({max})")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_brokers() {
        let broker = BrokerConfigs::default();
        assert!(DEFINITIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for definition in DEFINITIONS {
            assert_eq!(broker.text(definition.broker_synonym.unwrap()), definition.default);
            validate(definition.name, definition.default, &broker).unwrap();
        }
    }

    #[test]
    fn the_brokers_bounds_count() {
        let broker = BrokerConfigs::default().with_overrides([("group.consumer.max.session.timeout.ms", "50000")]);
        assert!(validate(SESSION_TIMEOUT, "50000", &broker).is_ok());
        for (name, value) in [(SESSION_TIMEOUT, "50001"), (SESSION_TIMEOUT, "x"), (HEARTBEAT_INTERVAL, "1"), ("x", "1")]
        {
            assert!(validate(name, value, &broker).is_err(), "{name} {value}");
        }
    }
}
