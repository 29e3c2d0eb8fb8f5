//! DaskClusters and DaskWorkerGroups on a real API server.

mod accepted;
mod creation;
mod emptied;
mod groups;
mod pods;
mod refusals;
mod remedies;
mod repair;
mod replicas;
mod specs;
mod strangers;
mod templates;
