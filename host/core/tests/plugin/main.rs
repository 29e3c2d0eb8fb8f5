//! Plugins' handlers over a cluster in memory, with guests that answer what the test says.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod calls;
mod changes;
mod conflicts;
mod dask_kinds;
mod end;
mod identity;
mod others;
mod taken_out;
mod unreadable;
mod world;
