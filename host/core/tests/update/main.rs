//! Changes of what runs: rolling updates, what is left alone, metadata, batches, and what the API server refuses.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod allocation;
mod bounds;
mod built;
mod kubernetes;
mod left_alone;
mod never_ran;
mod refused;
mod rolling;
mod unknown;
mod world;
