//! A stream of bytes to a scheduler, however it is reached.

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection, whatever it goes through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection of any kind.
pub(super) type BoxStream = Box<dyn Stream>;
