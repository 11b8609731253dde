//! Configs of a consumer group (the GROUP resource), over the brokers' `group.consumer.*`.

use super::broker::BrokerConfigs;
use super::definition::{self, ConfigError, Definition, Kind};

pub const SESSION_TIMEOUT: &str = "consumer.session.timeout.ms";
pub const HEARTBEAT_INTERVAL: &str = "consumer.heartbeat.interval.ms";

const BROKER_SESSION_TIMEOUT: &str = "group.consumer.session.timeout.ms";
const BROKER_HEARTBEAT_INTERVAL: &str = "group.consumer.heartbeat.interval.ms";

const I32: i64 = i32::MAX as i64;

/// Sorted by name.
const DEFINITIONS: &[Definition] = &[
    Definition {
        name: HEARTBEAT_INTERVAL,
        default: "3000",
        kind: Kind::Int { min: 1, max: I32 },
        doc: "How often members of the consumer protocol are told to send heartbeats (Kafka: 5000).",
        broker_synonym: Some(BROKER_HEARTBEAT_INTERVAL),
    },
    Definition {
        name: SESSION_TIMEOUT,
        default: "45000",
        kind: Kind::Int { min: 1, max: I32 },
        doc: "Silence after which a member of the consumer protocol is out of the group.",
        broker_synonym: Some(BROKER_SESSION_TIMEOUT),
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

/// Checks what a group would have with these values, `None` being the brokers': its members must be told to send more than
/// one heartbeat a session, or they expire and join again without end.
pub fn validate_pair(session: Option<&str>, interval: Option<&str>, broker: &BrokerConfigs) -> Result<(), ConfigError> {
    let in_force = |value: Option<&str>, synonym: &str| {
        // One left by an older version that is no number does not count.
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| broker.int(synonym))
    };
    let (session, interval) =
        (in_force(session, BROKER_SESSION_TIMEOUT), in_force(interval, BROKER_HEARTBEAT_INTERVAL));
    if interval < session {
        return Ok(());
    }
    Err(ConfigError(format!(
        "{HEARTBEAT_INTERVAL} ({interval}) must be less than {SESSION_TIMEOUT} ({session}); what a group does not set is \
         the brokers' {BROKER_HEARTBEAT_INTERVAL} or {BROKER_SESSION_TIMEOUT}"
    )))
}

/// Checks the brokers' own values, as [`validate_pair`] does a group's.
pub fn validate_broker(broker: &BrokerConfigs) -> Result<(), ConfigError> {
    let (session, interval) = (broker.int(BROKER_SESSION_TIMEOUT), broker.int(BROKER_HEARTBEAT_INTERVAL));
    if interval < session {
        return Ok(());
    }
    Err(ConfigError(format!(
        "{BROKER_HEARTBEAT_INTERVAL} ({interval}) must be less than {BROKER_SESSION_TIMEOUT} ({session})"
    )))
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

    #[test]
    fn heartbeats_come_more_often_than_sessions_end() {
        let broker = BrokerConfigs::default().with_overrides([
            ("group.consumer.session.timeout.ms", "9000"),
            ("group.consumer.heartbeat.interval.ms", "4000"),
        ]);
        assert_eq!(validate_broker(&broker), Ok(()));
        let fine = [(None, None), (Some("4001"), None), (None, Some("8999")), (Some("20000"), Some("19999"))];
        for (session, interval) in fine {
            assert_eq!(validate_pair(session, interval, &broker), Ok(()));
        }
        for (session, interval) in [(Some("4000"), None), (None, Some("9000")), (Some("20000"), Some("20001"))] {
            let error = validate_pair(session, interval, &broker).unwrap_err();
            assert!(error.0.contains(session.or(interval).unwrap()), "{error}");
        }
        let bad = broker.with_overrides([("group.consumer.session.timeout.ms", "4000")]);
        assert!(validate_broker(&bad).unwrap_err().0.contains("(4000)"));
    }
}
