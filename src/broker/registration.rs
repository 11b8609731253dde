//! What this process says of itself when it registers.

use super::BrokerError;
use super::folder::DataFolder;
use crate::config::broker::{ListenerConfig, NodeConfig};
use crate::ids::*;
use crate::log::folder::LogFolder;
use crate::metadata::command::{BrokerRegistration, Endpoint};
use crate::platform::{disk, random};

/// What is known before the logs are opened. It can only be sent once their folder has been asked for losses.
pub struct Unasked(BrokerRegistration);

impl Unasked {
    /// An earlier run had a disk error: what this folder holds is not to be trusted (replication.md, rule 19).
    pub fn with(self, logs: &LogFolder) -> BrokerRegistration {
        BrokerRegistration { data_lost: logs.is_lossy(), ..self.0 }
    }
}

/// A registration with a fresh incarnation id. An unreadable boot id is told as a new one: then nothing is trusted that
/// only the page cache could have held.
pub fn registration(config: &NodeConfig, folder: &DataFolder) -> Result<Unasked, BrokerError> {
    let kafka_endpoints = config.kafka_listeners.iter().map(endpoint).collect::<Result<_, _>>()?;
    Ok(Unasked(BrokerRegistration {
        broker: config.node_id,
        directory: folder.directory_id(),
        incarnation: IncarnationId(random::uuid()),
        boot_id: disk::boot_id().unwrap_or_else(|_| random::uuid().to_string()),
        clean_stop: folder.was_clean(),
        data_lost: false,
        kafka_endpoints,
        replica_endpoint: endpoint(&config.replica_listener)?,
        cluster_endpoint: endpoint(&config.cluster_listener)?,
        admin_endpoint: endpoint(&config.admin_listener)?,
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_string(),
    }))
}

/// The advertised address of a listener; an IPv6 host may stand in brackets.
fn endpoint(listener: &ListenerConfig) -> Result<Endpoint, BrokerError> {
    let wrong = || BrokerError::Address { listener: listener.name.clone(), address: listener.advertised.clone() };
    let (host, port) = listener.advertised.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(Endpoint { listener: listener.name.clone(), host: host.to_string(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_disk_failed_is_registered_as_lossy_until_that_was_told() {
        let data = tempfile::tempdir().unwrap();
        let listener = || ListenerConfig { name: "x".into(), bind: "x:1".into(), advertised: "x:1".into() };
        let config = NodeConfig {
            node_id: BrokerId(1),
            data_dir: data.path().into(),
            is_broker: true,
            is_controller: true,
            rack: None,
            kafka_listeners: Vec::new(),
            replica_listener: listener(),
            cluster_listener: listener(),
            admin_listener: listener(),
            controllers: Vec::new(),
            kafka: Default::default(),
        };
        let folder = DataFolder::open(data.path(), BrokerId(1)).unwrap();
        let registers = || {
            let logs = LogFolder::open(data.path(), true).unwrap();
            (registration(&config, &folder).unwrap().with(&logs).data_lost, logs)
        };
        assert!(!registers().0);
        disk::write_atomic(&data.path().join("partitions/.lossy"), b"").unwrap();
        assert!(registers().0);
        let (lost, logs) = registers();
        assert!(lost, "a process that ended before it had registered has told nobody");
        assert!(logs.forget_loss().unwrap());
        drop(logs);
        assert!(!registers().0);
    }

    #[test]
    fn advertised_addresses() {
        let of = |advertised: &str| {
            endpoint(&ListenerConfig { name: "x".into(), bind: String::new(), advertised: advertised.into() })
                .map(|e| (e.host, e.port))
                .ok()
        };
        assert_eq!(of("node-1:9092"), Some(("node-1".into(), 9092)));
        assert_eq!(of("[::1]:9092"), Some(("::1".into(), 9092)));
        for wrong in ["node-1", ":9092", "node-1:0", "node-1:70000", "node-1:"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
