//! librdkafka, set up to notice failures soon.

use rdkafka::config::ClientConfig;

/// A request that has no answer after this long is given up: its leader may be paused or cut off.
const REQUEST_MS: &str = "3000";
const SOCKET_MS: &str = "4000";

fn client(bootstrap: &str, name: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("client.id", name)
        // Its complaints about nodes that are down are what is expected here.
        .set("log_level", "0")
        .set("socket.timeout.ms", SOCKET_MS)
        .set("socket.connection.setup.timeout.ms", "1000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "300")
        .set("topic.metadata.refresh.interval.ms", "2000")
        .set("topic.metadata.refresh.fast.interval.ms", "50");
    config
}

pub fn producer(bootstrap: &str, name: &str) -> ClientConfig {
    let mut config = client(bootstrap, name);
    config.set("request.timeout.ms", REQUEST_MS).set("linger.ms", "5").set("retry.backoff.ms", "50");
    config.set("retries", "1000000");
    config
}

/// A position that is not in the log is an error, never moved silently.
pub fn consumer(bootstrap: &str, name: &str) -> ClientConfig {
    let mut config = client(bootstrap, name);
    config
        .set("group.id", name)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "200")
        .set("fetch.error.backoff.ms", "50")
        .set("check.crcs", "true");
    config
}
