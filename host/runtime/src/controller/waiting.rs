//! Who waits for an object that stands in its way, or is not there.

use std::collections::HashMap;

use dask_wasm_operator_core::{
    dask::Reconciler,
    object::{NamespacedName, ObjectKey},
    wanted::Problem,
};

/// See the module.
#[derive(Default)]
pub(super) struct Waiting(HashMap<(Reconciler, NamespacedName), Vec<ObjectKey>>);

impl Waiting {
    /// Notes what a subject waits for by its last pass.
    pub(super) fn note(&mut self, reconciler: Reconciler, at: &NamespacedName, problems: &[Problem]) {
        let objects: Vec<_> = problems.iter().filter_map(|problem| problem.waits_for.clone()).collect();
        if objects.is_empty() {
            self.0.remove(&(reconciler, at.clone()));
        } else {
            self.0.insert((reconciler, at.clone()), objects);
        }
    }

    /// The subjects that wait for an object.
    pub(super) fn subjects(&self, object: &ObjectKey) -> impl Iterator<Item = (Reconciler, NamespacedName)> {
        let waits = |objects: &Vec<ObjectKey>| objects.contains(object);
        self.0.iter().filter(move |(_, objects)| waits(objects)).map(|(subject, _)| subject.clone())
    }

    /// Forgets subjects.
    pub(super) fn retain(&mut self, keep: impl Fn(&NamespacedName) -> bool) {
        self.0.retain(|(_, at), _| keep(at));
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::object::GroupVersionKind;

    use super::*;

    fn cluster(name: &str) -> ObjectKey {
        let kind = GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskCluster");
        ObjectKey { kind, at: NamespacedName::new("ns1", name) }
    }

    #[test]
    fn exactly_those_that_wait_for_an_object_are_found_until_they_wait_no_more() {
        let mut waiting = Waiting::default();
        let missing = |name: &str| vec![Problem::passing("ClusterNotFound", "words").until(cluster(name))];
        let at = NamespacedName::new("ns1", "same");
        waiting.note(Reconciler::Autoscaler, &at, &missing("a"));
        waiting.note(Reconciler::WorkerGroup, &at, &missing("b"));
        let of = |waiting: &Waiting, name: &str| waiting.subjects(&cluster(name)).collect::<Vec<_>>();
        assert_eq!(of(&waiting, "a"), [(Reconciler::Autoscaler, at.clone())], "not the group of its name");
        assert_eq!(of(&waiting, "b"), [(Reconciler::WorkerGroup, at.clone())]);
        assert_eq!(of(&waiting, "c"), []);
        waiting.note(Reconciler::Autoscaler, &at, &[Problem::passing("ClusterDeleting", "nothing to wait for")]);
        assert_eq!(of(&waiting, "a"), []);
        waiting.retain(|_| false);
        assert_eq!(of(&waiting, "b"), []);
    }
}
