//! The life of a DaskJob over a cluster in memory. Pods get their statuses by hand, as the kubelet would give them.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod attempts;
mod life;
mod limits;
mod world;
