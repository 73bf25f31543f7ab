//! The control plane: what an operator asks of a running server, on a thread of its own, so that
//! it may stall or die without delaying a request.
//!
//! Reading order: [`Control`], `scrape` (the metrics endpoint), `exposition` (the text it sends).

mod exposition;
mod scrape;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

use crate::listen::Listener;
use crate::s3::S3;

/// The running control plane; it ends when this is dropped.
#[derive(Debug)]
pub struct Control {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread `lobos-control`, which answers scrapes on `listener`.
    pub fn start(listener: Listener, s3: Arc<S3>) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("lobos-control".into())
            .spawn(move || run(listener, s3, stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            tracing::error!("the control plane ended with a panic");
        }
    }
}

fn run(listener: Listener, s3: Arc<S3>, stopped: oneshot::Receiver<()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                () = scrape::serve(listener, s3) => {}
                _ = stopped => {}
            }
        }),
        Err(error) => tracing::error!(%error, "the control plane has no event loop"),
    }
}
