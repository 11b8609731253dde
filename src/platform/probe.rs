//! Is a process still there? What one dial of its port tells.

use super::network::{self, TcpStream};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A connection cut this soon after it was made was made to a process on its way out.
const CUT_WITHIN: Duration = Duration::from_millis(200);
const REDIALS_MAX: usize = 3;

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The address of a connection that broke. No name look-up: a container that is gone has no name any more.
    Address(SocketAddr),
    /// "host:port", where there was no connection yet.
    Name(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Proves nothing: the kernel accepts for a stopped process too.
    Connected,
    Refused,
    Unreachable,
    /// No answer in time.
    Silent,
    /// The dial did not get so far (a name look-up failed, say): says nothing about the peer.
    Unclear,
}

/// Dials once, and again where the connection just made is cut: a process that dies closes its sockets one by one, and
/// the dial may have come between its connection's end and its listener's.
pub async fn probe(target: &Target, timeout: Duration) -> Outcome {
    let mut dialed = dial_once(target, timeout).await;
    for _ in 0..REDIALS_MAX {
        match dialed {
            Ok(stream) if cut_within(&stream, CUT_WITHIN).await => dialed = dial_once(target, timeout).await,
            _ => break,
        }
    }
    outcome_of(&dialed.map(drop))
}

async fn dial_once(target: &Target, timeout: Duration) -> io::Result<TcpStream> {
    match target {
        Target::Address(address) => network::dial_address(*address, timeout).await,
        Target::Name(name) => network::dial(name, timeout).await,
    }
}

/// True if the peer ends the connection within `time`. A live one keeps it open, whether it says something or not.
async fn cut_within(stream: &TcpStream, time: Duration) -> bool {
    match tokio::time::timeout(time, stream.peek(&mut [0])).await {
        Ok(Ok(read)) => read == 0,
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

fn outcome_of(dialed: &io::Result<()>) -> Outcome {
    match dialed {
        Ok(()) => Outcome::Connected,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Outcome::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable,
            io::ErrorKind::TimedOut => Outcome::Silent,
            _ => Outcome::Unclear,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_a_dying_process_is_cut() {
        let listener = network::listen("127.0.0.1:0").await.unwrap();
        let target = Target::Address(listener.local_addr().unwrap());
        let stream = dial_once(&target, Duration::from_secs(5)).await.unwrap();
        assert!(!cut_within(&stream, Duration::from_millis(10)).await, "the kernel holds it open");
        drop(listener);
        assert!(cut_within(&stream, Duration::from_secs(5)).await);
        assert_eq!(probe(&target, Duration::from_secs(5)).await, Outcome::Refused);
    }

    #[tokio::test]
    async fn dials_are_told_apart() {
        let listener = network::listen("127.0.0.1:0").await.unwrap();
        let target = Target::Address(listener.local_addr().unwrap());
        assert_eq!(probe(&target, Duration::from_secs(5)).await, Outcome::Connected);
        drop(listener);
        assert_eq!(probe(&target, Duration::from_secs(5)).await, Outcome::Refused);
        let lookup = io::Error::other("failed to lookup address information");
        assert_eq!(outcome_of(&Err(lookup)), Outcome::Unclear);
    }
}
