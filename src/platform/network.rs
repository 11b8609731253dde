//! Sockets: listening and dialling.

pub use tokio::net::{TcpListener, TcpStream};

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Binds `address` ("host:port").
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Connects to `address` ("host:port"), resolving the name anew each time: a container's address changes at restart.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub async fn dial(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address)).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no connection to {address} within {timeout:?}"))
    })??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to an address that is known already, with no name look-up.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub async fn dial_address(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address)).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no connection to {address} within {timeout:?}"))
    })??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Resolves when the peer has ended the connection, or it broke. What the peer says is read and dropped.
pub async fn closed(stream: &mut TcpStream) {
    let mut said = [0; 256];
    while stream.read(&mut said).await.is_ok_and(|read| read > 0) {}
}
