//! What a Kafka-named config is: its default, its kind, its bounds; and how a value or a name is checked.

/// One defined config, as DescribeConfigs shows it.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
    /// The broker config that gives a topic config's default, if any.
    pub broker_synonym: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    Int {
        min: i64,
        max: i64,
    },
    Text,
    List,
    OneOf(&'static [&'static str]),
    ListOf(&'static [&'static str]),
    /// `*`, or a list of partition:broker.
    Replicas,
}

/// Why a config was refused: the name, what was given, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Definition {
    /// Checks one value, or says what would be allowed.
    pub fn check(&self, value: &str) -> Result<(), ConfigError> {
        let refuse = |allowed: String| {
            Err(ConfigError(format!("invalid value '{value}' for {}: it must be {allowed}", self.name)))
        };
        match self.kind {
            Kind::Boolean if matches!(value, "true" | "false") => Ok(()),
            Kind::Boolean => refuse("true or false".to_string()),
            Kind::Int { min, max } => match value.trim().parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                _ => refuse(format!("a whole number from {min} to {max}")),
            },
            Kind::OneOf(allowed) if allowed.contains(&value) => Ok(()),
            Kind::OneOf(allowed) => refuse(format!("one of {}", allowed.join(", "))),
            Kind::ListOf(allowed) => {
                let known = value.split(',').map(str::trim).all(|item| item.is_empty() || allowed.contains(&item));
                if known { Ok(()) } else { refuse(format!("a comma-separated list of {}", allowed.join(", "))) }
            }
            Kind::Replicas if value.trim() == "*" || replicas(value).all(|item| item.is_some()) => Ok(()),
            Kind::Replicas => refuse("* or a comma-separated list of partition:broker, such as 0:1,0:2".to_string()),
            Kind::Text | Kind::List => Ok(()),
        }
    }
}

/// The partition and broker of each item; `None` for one that is something else.
fn replicas(list: &str) -> impl Iterator<Item = Option<(i32, i32)>> {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| {
        let (partition, broker) = item.split_once(':')?;
        let number = |text: &str| text.parse::<i32>().ok().filter(|number| *number >= 0);
        Some((number(partition)?, number(broker)?))
    })
}

/// Does a value of [`Kind::Replicas`] name the replica of this partition on this broker?
pub fn names_replica(list: &str, partition: i32, broker: i32) -> bool {
    list.trim() == "*" || replicas(list).any(|item| item == Some((partition, broker)))
}

/// Finds `name`, or names the nearest one that exists.
pub fn find(definitions: &'static [Definition], name: &str) -> Result<&'static Definition, ConfigError> {
    definitions
        .iter()
        .find(|definition| definition.name == name)
        .ok_or_else(|| unknown("config", name, definitions.iter().map(|definition| definition.name)))
}

/// The error for an unknown name, with the nearest known one.
pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> ConfigError {
    let nearest = known.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    ConfigError(match nearest {
        Some(nearest) => format!("unknown {what} '{name}'; did you mean '{nearest}'?"),
        None => format!("unknown {what} '{name}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Definition = Definition {
        name: "retention.ms",
        default: "604800000",
        kind: Kind::Int { min: -1, max: i64::MAX },
        doc: "",
        broker_synonym: None,
    };

    #[test]
    fn a_refused_value_says_what_is_allowed() {
        let error = SAMPLE.check("soon").unwrap_err();
        assert!(error.0.contains("retention.ms") && error.0.contains("-1"), "{error}");
        assert!(SAMPLE.check("-2").is_err());
        assert!(SAMPLE.check("-1").is_ok());
    }

    #[test]
    fn a_list_of_replicas_names_those_in_it() {
        let replicas = Definition { name: "x.throttled.replicas", default: "", kind: Kind::Replicas, ..SAMPLE };
        for good in ["", "*", "0:1", "0:1, 12:3", "0:1,"] {
            assert_eq!(replicas.check(good), Ok(()), "{good}");
        }
        for bad in ["0", "0:1:2", "0:-1", "a:1", "*,0:1", "none"] {
            assert!(replicas.check(bad).unwrap_err().0.contains("partition:broker"), "{bad}");
        }
        assert!(names_replica("0:1, 12:3", 12, 3) && names_replica(" * ", 5, 6));
        assert!(!names_replica("0:1,12:3", 12, 1) && !names_replica("", 0, 0));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = unknown("config", "retention.mss", ["retention.ms", "segment.bytes"].into_iter());
        assert!(error.0.contains("did you mean 'retention.ms'"), "{error}");
    }
}
