//! The configuration of one node: a TOML file, then `HIGHWATER_…` variables, then flags.
//!
//! All three are flattened to dotted keys (`listeners.internal.bind`) and merged before anything is read, so that each
//! source can set each key, and an unknown key is refused with the nearest known one wherever it came from.

use super::broker::BrokerConfigs;
use super::definition::{ConfigError, unknown};
use crate::ids::BrokerId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A bind address and the address told to others, each "host:port".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub name: String,
    pub bind: String,
    pub advertised: String,
}

/// One node's whole configuration, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    pub node_id: BrokerId,
    pub data_dir: PathBuf,
    pub is_broker: bool,
    pub is_controller: bool,
    pub rack: Option<String>,
    pub kafka_listeners: Vec<ListenerConfig>,
    pub replica_listener: ListenerConfig,
    pub cluster_listener: ListenerConfig,
    pub admin_listener: ListenerConfig,
    /// The initial controllers: (node id, cluster address). The same list on every node.
    pub controllers: Vec<(BrokerId, String)>,
    /// Kafka-named broker configs, checked.
    pub kafka: BrokerConfigs,
}

const TOP_KEYS: [&str; 5] = ["node_id", "data_dir", "roles", "rack", "controllers"];
const FIXED_LISTENERS: [(&str, u16); 3] =
    [("replica_listener", 9095), ("cluster_listener", 9093), ("admin_listener", 9094)];
/// Variables of the command line and the log, not of the node's configuration.
const OTHER_VARIABLES: [&str; 4] = ["ADMIN", "BOOTSTRAP", "LOG", "CONFIG"];
/// Without the feature the name is unknown, and so an error: nobody should take a sound binary for a broken one.
const CHAOS_VARIABLE: Option<&str> = if cfg!(feature = "chaos-bugs") { Some("CHAOS_BUG") } else { None };

type Flat = BTreeMap<String, String>;

impl NodeConfig {
    /// Merges the text of a TOML file, `HIGHWATER_…` variables and `key=value` overrides, and checks the result.
    pub fn load(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<NodeConfig, ConfigError> {
        let mut flat = Flat::new();
        if let Some((path, text)) = file {
            let table: toml::Table =
                text.parse().map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
            flatten("", &toml::Value::Table(table), &mut flat)
                .map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        }
        for (variable, value) in environment {
            if let Some(name) = variable.strip_prefix("HIGHWATER_")
                && !OTHER_VARIABLES.contains(&name)
                && CHAOS_VARIABLE != Some(name)
            {
                flat.insert(key_of_variable(name), value);
            }
        }
        for (key, value) in overrides {
            let known = is_node_key(key) || key.starts_with("kafka.");
            flat.insert(if known { key.clone() } else { format!("kafka.{key}") }, value.clone());
        }
        assemble(flat)
    }
}

/// Turns `HIGHWATER_KAFKA_NUM_PARTITIONS` (prefix gone) into `kafka.num.partitions`, and so on.
fn key_of_variable(name: &str) -> String {
    let name = name.to_lowercase();
    if let Some(config) = name.strip_prefix("kafka_") {
        return format!("kafka.{}", config.replace('_', "."));
    }
    for suffix in ["bind", "advertised"] {
        if let Some(listener) = name.strip_suffix(&format!("_{suffix}")) {
            return match listener.strip_prefix("listeners_") {
                Some(listener) => format!("listeners.{listener}.{suffix}"),
                None => format!("{listener}.{suffix}"),
            };
        }
    }
    name
}

fn is_node_key(key: &str) -> bool {
    TOP_KEYS.contains(&key)
        || key.strip_prefix("listeners.").is_some_and(is_listener_field)
        || FIXED_LISTENERS
            .iter()
            .any(|(name, _)| key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')).is_some_and(is_field))
}

fn is_listener_field(rest: &str) -> bool {
    rest.rsplit_once('.').is_some_and(|(name, field)| !name.is_empty() && is_field(field))
}

fn is_field(field: &str) -> bool {
    matches!(field, "bind" | "advertised")
}

fn flatten(prefix: &str, value: &toml::Value, into: &mut Flat) -> Result<(), String> {
    let text = match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, into)?;
            }
            return Ok(());
        }
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items.ok_or_else(|| format!("{prefix} must be a list of strings"))?.join(",")
        }
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Datetime(_) => return Err(format!("{prefix} may not be a date")),
    };
    into.insert(prefix.to_string(), text);
    Ok(())
}

fn assemble(mut flat: Flat) -> Result<NodeConfig, ConfigError> {
    let mut kafka = BrokerConfigs::default();
    for key in flat.keys().cloned().collect::<Vec<_>>() {
        if let Some(name) = key.strip_prefix("kafka.") {
            let value = flat.remove(&key).expect("the key was just listed");
            super::broker::validate(name, &value)?;
            kafka.given.insert(name.to_string(), value);
        } else if !is_node_key(&key) {
            let known = TOP_KEYS.into_iter().chain([
                "kafka.<Kafka's name>",
                "listeners.<name>.bind",
                "listeners.<name>.advertised",
                "replica_listener.bind",
                "cluster_listener.bind",
                "admin_listener.bind",
            ]);
            return Err(unknown("key", &key, known));
        }
    }
    super::group::validate_broker(&kafka)?;
    super::broker::validate_session(&kafka)?;
    let node_id = flat.remove("node_id").ok_or_else(|| {
        ConfigError("node_id is missing: give each node a number of its own, such as node_id = 1".into())
    })?;
    let node_id = node_id
        .parse::<i32>()
        .ok()
        .filter(|id| *id >= 0)
        .ok_or_else(|| ConfigError(format!("node_id '{node_id}' must be a number from 0 to {}", i32::MAX)))?;
    let data_dir = flat.remove("data_dir").ok_or_else(|| {
        ConfigError("data_dir is missing: name the folder that is to hold this node's data".to_string())
    })?;
    let (is_broker, is_controller) = roles(flat.remove("roles").as_deref().unwrap_or("broker,controller"))?;
    let [replica_listener, cluster_listener, admin_listener] = FIXED_LISTENERS.map(|(name, port)| {
        listener(&mut flat, name, name.trim_end_matches("_listener"), &format!("127.0.0.1:{port}"))
    });
    let (replica_listener, cluster_listener, admin_listener) = (replica_listener?, cluster_listener?, admin_listener?);
    let mut names: Vec<String> = flat
        .keys()
        .filter_map(|key| key.strip_prefix("listeners.")?.rsplit_once('.').map(|(name, _)| name.to_string()))
        .collect();
    names.dedup();
    if names.is_empty() {
        names.push("plaintext".to_string());
    }
    let kafka_listeners = names
        .iter()
        .map(|name| listener(&mut flat, &format!("listeners.{name}"), name, "127.0.0.1:9092"))
        .collect::<Result<Vec<_>, _>>()?;
    let controllers = match flat.remove("controllers") {
        Some(list) => controllers(&list)?,
        None => vec![(BrokerId(node_id), cluster_listener.advertised.clone())],
    };
    if is_controller && !controllers.iter().any(|(id, _)| id.0 == node_id) && controllers.is_empty() {
        return Err(ConfigError("controllers is empty: list the initial controllers as \"id@host:port\"".into()));
    }
    Ok(NodeConfig {
        node_id: BrokerId(node_id),
        data_dir: PathBuf::from(data_dir),
        is_broker,
        is_controller,
        rack: flat.remove("rack").filter(|rack| !rack.is_empty()),
        kafka_listeners,
        replica_listener,
        cluster_listener,
        admin_listener,
        controllers,
        kafka,
    })
}

fn roles(text: &str) -> Result<(bool, bool), ConfigError> {
    let (mut broker, mut controller) = (false, false);
    for role in text.split(',').map(str::trim).filter(|role| !role.is_empty()) {
        match role {
            "broker" => broker = true,
            "controller" => controller = true,
            other => return Err(unknown("role", other, ["broker", "controller"].into_iter())),
        }
    }
    if !broker && !controller {
        return Err(ConfigError("roles is empty: give broker, controller, or both".to_string()));
    }
    Ok((broker, controller))
}

fn listener(flat: &mut Flat, key: &str, name: &str, default_bind: &str) -> Result<ListenerConfig, ConfigError> {
    let bind = flat.remove(&format!("{key}.bind")).unwrap_or_else(|| default_bind.to_string());
    let advertised = flat.remove(&format!("{key}.advertised")).unwrap_or_else(|| bind.clone());
    for (field, address) in [("bind", &bind), ("advertised", &advertised)] {
        host_and_port(address).map_err(|error| ConfigError(format!("{key}.{field}: {error}")))?;
    }
    if host_and_port(&advertised).is_ok_and(|(host, _)| matches!(host.as_str(), "0.0.0.0" | "::")) {
        return Err(ConfigError(format!(
            "{key}.advertised is {advertised}, which nobody can connect to: give {key}.advertised the address that others reach this node by"
        )));
    }
    Ok(ListenerConfig { name: name.to_string(), bind, advertised })
}

/// Splits "host:port"; an IPv6 host may stand in brackets.
pub fn host_and_port(address: &str) -> Result<(String, u16), ConfigError> {
    let refuse = || ConfigError(format!("'{address}' is not an address of the form host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(refuse());
    }
    Ok((host.to_string(), port.parse().map_err(|_| refuse())?))
}

fn controllers(list: &str) -> Result<Vec<(BrokerId, String)>, ConfigError> {
    let mut found: Vec<(BrokerId, String)> = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let refuse = || ConfigError(format!("controllers: '{item}' is not of the form id@host:port"));
        let (id, address) = item.split_once('@').ok_or_else(refuse)?;
        let id = BrokerId(id.parse().map_err(|_| refuse())?);
        host_and_port(address).map_err(|_| refuse())?;
        if found.iter().any(|(other, _)| *other == id) {
            return Err(ConfigError(format!("controllers: node {id} is listed twice")));
        }
        found.push((id, address.to_string()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        node_id = 2
        data_dir = "data"
        controllers = ["1@a:9093", "2@b:9093"]
        [listeners.internal]
        bind = "0.0.0.0:9092"
        advertised = "b:9092"
        [listeners.host]
        bind = "0.0.0.0:19092"
        advertised = "localhost:19092"
        [cluster_listener]
        bind = "0.0.0.0:9093"
        advertised = "b:9093"
        [kafka]
        "num.partitions" = 6
    "#;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<NodeConfig, ConfigError> {
        let owned =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>();
        NodeConfig::load(Some((Path::new("highwater.toml"), file)), owned(environment), &owned(flags))
    }

    #[test]
    fn flags_win_over_variables_and_those_over_the_file() {
        let config = load(FILE, &[], &[]).unwrap();
        assert_eq!((config.node_id, config.kafka.int("num.partitions")), (BrokerId(2), 6));
        assert_eq!(config.kafka_listeners.len(), 2);
        let config = load(
            FILE,
            &[
                ("HIGHWATER_KAFKA_NUM_PARTITIONS", "7"),
                ("HIGHWATER_NODE_ID", "3"),
                ("HIGHWATER_LISTENERS_HOST_ADVERTISED", "example:1"),
                ("HIGHWATER_LOG", "debug"),
                ("PATH", "/bin"),
            ],
            &[("num.partitions", "8"), ("rack", "r1")],
        )
        .unwrap();
        assert_eq!((config.node_id, config.kafka.int("num.partitions")), (BrokerId(3), 8));
        assert_eq!(config.kafka_listeners.iter().find(|l| l.name == "host").unwrap().advertised, "example:1");
        assert_eq!(config.rack.as_deref(), Some("r1"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let message = |text: &str| load(text, &[], &[]).unwrap_err().0;
        assert!(message("node_idd = 1").contains("did you mean 'node_id'"));
        assert!(message("node_id = 1\ndata_dir = \"d\"\n[kafka]\n\"num.partition\" = 1").contains("num.partitions"));
        assert!(load(FILE, &[("HIGHWATER_NODEID", "1")], &[]).unwrap_err().0.contains("node_id"));
    }

    #[test]
    fn what_is_missing_or_unusable_is_said() {
        let message = |text: &str| load(text, &[], &[]).unwrap_err().0;
        assert!(message("data_dir = \"d\"").contains("node_id is missing"));
        assert!(message("node_id = 1").contains("data_dir is missing"));
        assert!(message("node_id = -4\ndata_dir = \"d\"").contains("-4"));
        let unreachable = "node_id = 1\ndata_dir = \"d\"\n[listeners.x]\nbind = \"0.0.0.0:1\"";
        assert!(message(unreachable).contains("advertised"));
        assert!(message("node_id = 1\ndata_dir = \"d\"\ncontrollers = [\"1:9\"]").contains("id@host:port"));
        assert!(message("node_id = 1\ndata_dir = \"d\"\nroles = [\"controler\"]").contains("controller"));
        let pair = "node_id = 1\ndata_dir = \"d\"\n[kafka]\n\"group.consumer.heartbeat.interval.ms\" = 45000";
        assert!(message(pair).contains("group.consumer.session.timeout.ms (45000)"));
        let late = "node_id = 1\ndata_dir = \"d\"\n[kafka]\n\"broker.heartbeat.interval.ms\" = 2000";
        assert!(message(late).contains("broker.session.timeout.ms (1500)"));
        let kafkas = format!("{late}\n\"broker.session.timeout.ms\" = 9000");
        assert_eq!(load(&kafkas, &[], &[]).map(|_| ()), Ok(()));
    }
}
