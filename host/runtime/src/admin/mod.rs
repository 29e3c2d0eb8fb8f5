//! Health and metrics, for those who look at the program from outside: what is told, and the server that tells it.

pub(crate) mod health;
pub(crate) mod server;
