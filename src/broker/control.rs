//! The control runtime: one thread of its own for Raft and the broker sessions, so that data load never starves them.

use std::future::Future;
use std::io;
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

pub struct ControlRuntime {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl ControlRuntime {
    pub fn start() -> io::Result<ControlRuntime> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("control".to_string()).spawn(move || {
            // Ends when told so, or when the node's owner is gone; tasks still running are dropped with the runtime.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(ControlRuntime { handle, stop, thread })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` there and waits for it here; `None` if the runtime stopped first.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.handle.spawn(work).await.ok()
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}
