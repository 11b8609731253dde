//! What this process says of itself when it registers.

use super::BrokerError;
use super::folder::DataFolder;
use crate::config::broker::{ListenerConfig, NodeConfig};
use crate::ids::*;
use crate::metadata::command::{BrokerRegistration, Endpoint};
use crate::platform::{disk, random};

/// A registration with a fresh incarnation id. An unreadable boot id is told as a new one: then nothing is trusted that
/// only the page cache could have held.
pub fn registration(config: &NodeConfig, folder: &DataFolder) -> Result<BrokerRegistration, BrokerError> {
    let kafka_endpoints = config.kafka_listeners.iter().map(endpoint).collect::<Result<_, _>>()?;
    Ok(BrokerRegistration {
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
    })
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
