//! Plugins on a real API server.

mod children;
mod code;
mod directory;
mod failures;
mod istio;
pub(crate) mod mounting;
mod removal;
mod sources;
mod subjects;
mod words;
