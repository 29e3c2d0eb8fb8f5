//! The program as a process of its operating system: its tasks, its memory, what it prints, how it is told to end and how it
//! ends.

pub(crate) mod clock;
pub(crate) mod exit;
pub(crate) mod heap;
pub(crate) mod shutdown;
pub(crate) mod stalls;
pub(crate) mod stdout;
pub(crate) mod task;
