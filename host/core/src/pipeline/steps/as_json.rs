//! Steps whose values are written down and read again between them: what they hand on are values, and nothing besides.

use std::ops::ControlFlow;

use serde::{Serialize, de::DeserializeOwned};

use super::{Accepted, Done, NamespacedName, Plan, Report, Snapshot, Steps};

pub(in crate::pipeline) struct AsJson<S>(pub(in crate::pipeline) S);

fn replayed<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

impl<S: Steps<Decision: Serialize + DeserializeOwned + Sync> + Send> Steps for AsJson<S> {
    type Decision = S::Decision;

    async fn observe(&mut self, at: &NamespacedName) -> ControlFlow<Report, Snapshot> {
        ControlFlow::Continue(replayed(&self.0.observe(at).await?))
    }

    async fn decide(&mut self, seen: &mut Snapshot) -> ControlFlow<Report, S::Decision> {
        let decision = self.0.decide(seen).await?;
        ControlFlow::Continue(replayed(&decision))
    }

    async fn build(&mut self, seen: &Snapshot, decision: S::Decision) -> S::Decision {
        replayed(&self.0.build(seen, decision).await)
    }

    async fn accept(&mut self, seen: &Snapshot, decision: S::Decision) -> ControlFlow<Report, Accepted> {
        ControlFlow::Continue(replayed(&self.0.accept(seen, decision).await?))
    }

    fn plan(&mut self, seen: &Snapshot, accepted: &mut Accepted) -> ControlFlow<Report, Plan> {
        ControlFlow::Continue(replayed(&self.0.plan(seen, accepted)?))
    }

    async fn write(&mut self, plan: Plan) -> Done {
        self.0.write(plan).await
    }

    async fn remember(&mut self, seen: &Snapshot, accepted: Accepted, done: Done) -> Report {
        self.0.remember(seen, accepted, done).await
    }

    fn conclude(&mut self, report: Report) -> Report {
        replayed(&self.0.conclude(report))
    }
}
