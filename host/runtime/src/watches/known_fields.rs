//! Follows which fields the API server knows: one that is upgraded while the operator runs knows more.

use std::{sync::Arc, time::Duration};

use dask_wasm_operator_cluster::{RequestError, published::PublishedFields};
use tokio::time::sleep;

use crate::{
    controller::Controller,
    process::{heap, shutdown::Shutdown},
};

/// So often the server is asked, while it says which fields it knows, and while it does not.
const EVERY: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_secs(30);

/// So often at start, where a moment without an answer must not make templates look changed.
const ATTEMPTS: usize = 3;

/// Asks at start.
pub(crate) async fn ask(fields: &PublishedFields) {
    let mut answer = fields.refresh().await;
    for _ in 1..ATTEMPTS {
        if matches!(answer, Ok(_) | Err(RequestError::Status(_) | RequestError::Decode(_))) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        answer = fields.refresh().await;
    }
    // The documents are many times what is kept of them.
    heap::much_is_free();
    if let Err(error) = answer {
        tracing::warn!(
            %error,
            "the API server does not say which fields it knows (GET /openapi/v3): an object with a field that it does not know \
             is refused as a whole"
        );
    }
}

/// Works until told to stop. What changes concerns every subject.
pub(crate) async fn follow(fields: Arc<PublishedFields>, controller: Arc<Controller>, mut shutdown: Shutdown) {
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = sleep(pause) => {}
        }
        pause = match fields.refresh().await {
            Ok(true) => {
                heap::much_is_free();
                tracing::info!("the API server knows other fields than before");
                controller.look_at_everything();
                EVERY
            }
            Ok(false) => EVERY,
            Err(error) => {
                tracing::debug!(%error, "the API server does not say which fields it knows");
                AGAIN
            }
        };
    }
}
