//! What the operator does when it is killed, when what it knows is old, and when there is nothing to do.

mod crash;
mod lease;
mod proxy;
mod quiet;
mod site;
mod snapshot;
mod spoilt;
mod stale;
