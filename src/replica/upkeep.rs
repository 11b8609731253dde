//! What goes on beside the image: ISR ticks, high-watermark checkpoints, retention, also of folders set aside.

use super::hosted::Inner;
use crate::log::folder::Aside;
use crate::platform::clock;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(250);
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Looks at the partitions that asked for it, and at those that rely on a broker that fell silent.
pub(super) async fn tick(inner: Arc<Inner>) {
    let mut silent_before = BTreeSet::new();
    loop {
        tokio::time::sleep(TICK).await;
        let now = clock::now();
        let silent: BTreeSet<_> = inner.node.silent_for(inner.node.config.lag_time_max, now).into_iter().collect();
        let fell: Vec<_> = silent.difference(&silent_before).copied().collect();
        if !fell.is_empty() {
            // Idle partitions are on no list; this is the only look at all of them, once a silence.
            for partition in inner.all() {
                if partition.relies_on(&fell) {
                    partition.list();
                }
            }
        }
        silent_before = silent;
        let image = inner.node.image.load_full();
        for partition in inner.node.take_listed() {
            if partition.tick(&image, now) {
                inner.node.list(partition);
            }
        }
    }
}

pub(super) async fn checkpoint(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        if inner.node.take_high_watermarks_moved() {
            let inner = inner.clone();
            let _stored_or_logged = tokio::task::spawn_blocking(move || inner.store_high_watermarks()).await;
        }
    }
}

/// One log at a time, off the threads that serve.
pub(super) async fn retention(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(inner.node.config.retention_check_interval).await;
        let inner = inner.clone();
        let _done_or_logged = tokio::task::spawn_blocking(move || {
            let grace_ms = inner.node.config.stray_retention_ms;
            for Aside { path, bytes } in inner.folder.remove_old_strays(clock::wall_ms(), grace_ms) {
                tracing::warn!(path = %path.display(), bytes, "its grace time is over: a folder set aside is removed");
            }
            for partition in inner.all() {
                match partition.apply_retention(clock::wall_ms()) {
                    Ok(0) => {}
                    Ok(bytes) => tracing::info!(?partition, bytes, "retention removed segments"),
                    Err(error) => tracing::error!(?partition, %error, "retention failed; check the disk"),
                }
            }
        })
        .await;
    }
}
