//! Scaling down, over a cluster in memory.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod names;
mod order;
mod retiring;
mod silent;
mod world;
