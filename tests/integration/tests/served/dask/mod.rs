//! What asks a scheduler, with a real one: whom to remove, how many workers its work needs, whether it is idle; and jobs.

mod autoscaler;
mod idle;
mod job;
mod scaling;
