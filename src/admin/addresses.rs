//! host:port texts.

use crate::metadata::command::Endpoint;

/// "host:port"; an IPv6 host in brackets.
pub fn text(endpoint: &Endpoint) -> String {
    if endpoint.host.contains(':') {
        format!("[{}]:{}", endpoint.host, endpoint.port)
    } else {
        format!("{}:{}", endpoint.host, endpoint.port)
    }
}
