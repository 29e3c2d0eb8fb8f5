//! What a person can do about what a server refuses, and in which of their own objects.
//!
//! The remedy follows from the cause: correcting a spec helps nobody whose quota is used up. And it is for the object that a
//! person wrote: what the operator copies from another object is undone by it when it is corrected in the copy.

use std::fmt;

use crate::{
    action::is_about_what_cannot_change,
    dask::{naming::CLUSTER, reconciler::Reconciler},
    native::Native as _,
    object::{GroupVersionKind, Object},
    wanted::Snapshot,
};

/// Fields that one remedy names.
const FIELDS: usize = 3;

/// A part of the spec that a person wrote, from which an object is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `spec.worker.spec`.
    path: String,
    /// `DaskCluster simple`.
    object: String,
}

impl Place {
    /// Where a person wrote a section of the subject's spec.
    pub(super) fn within(reconciler: Reconciler, seen: &Snapshot, section: &str) -> Self {
        let cluster = if reconciler == Reconciler::WorkerGroup { seen.related_one(CLUSTER) } else { None };
        Self::of(&seen.subject, section, cluster.map(AsRef::as_ref))
    }

    /// Where a section of a subject's spec was written. `cluster` is the DaskCluster of a group.
    pub(crate) fn of(subject: &Object, section: &str, cluster: Option<&Object>) -> Self {
        let place =
            Self { path: section.to_owned(), object: format!("{} {}", subject.kind.kind, subject.metadata.name) };
        let copied = |from: Reconciler| {
            let owner = subject.metadata.controller().filter(|owner| owner.kind == from.subject().kind)?;
            subject.applied_by(&from.field_manager()).map(|_| format!("{} {}", owner.kind, owner.name))
        };
        if let Some(object) = copied(Reconciler::Job) {
            Self { path: format!("spec.cluster.{section}"), object }
        } else if let Some(object) = copied(Reconciler::Cluster) {
            let of_cluster = |cluster| Self::of(cluster, section, None);
            cluster.map_or(Self { object, ..place }, of_cluster)
        } else {
            place
        }
    }

    /// These fields of a child that is made from this part, as a person finds them here: `child` is where it stands in the child.
    fn fields(&self, child: &str, fields: &[String]) -> String {
        let mut here: Vec<_> = fields.iter().filter_map(|field| self.field(child, field)).collect();
        here.sort_unstable();
        here.dedup();
        let more = here.len().saturating_sub(FIELDS);
        here.truncate(FIELDS);
        match (here.as_slice(), more) {
            ([], _) => self.to_string(),
            (some, 0) => format!("{} of {}", some.join(" and "), self.object),
            (some, more) => format!("{} and {more} more of {}", some.join(", "), self.object),
        }
    }

    /// Names what stands below it, by its path.
    pub(super) fn naming(&self, below: impl FnOnce(&str) -> String) -> String {
        format!("{} of {}", below(&self.path), self.object)
    }

    fn field(&self, child: &str, field: &str) -> Option<String> {
        let (part, _) = self.path.rsplit_once('.')?;
        let found = match field.strip_prefix(child) {
            Some("") => self.path.clone(),
            Some(rest) if rest.starts_with(['.', '[']) => format!("{}{rest}", self.path),
            _ => {
                let metadata = field.find("metadata.").map(|at| &field[at..])?;
                format!("{part}.{metadata}")
            }
        };
        // What the operator adds moves the later entries of a list within a list: env is one.
        let inner = found.match_indices('[').nth(1).map(|(at, _)| at);
        Some(found[..inner.unwrap_or(found.len())].to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.path, self.object)
    }
}

/// Where the part of a spec that an object is made from stands in the object.
fn path_in(child: &GroupVersionKind) -> &'static str {
    match child.kind.as_str() {
        "Deployment" => "spec.template.spec",
        "DaskWorkerGroup" => "spec.worker",
        _ => "spec",
    }
}

/// What to do about an object that is refused in these words, for these fields; `place` is what it is made from.
pub(super) fn of_refusal(
    words: &str,
    fields: &[String],
    child: &GroupVersionKind,
    place: Option<&Place>,
) -> Option<String> {
    // The field may have another name where a person wrote it: clusterIPs follows from clusterIP.
    if let Some(place) = place.filter(|_| is_about_what_cannot_change(words)) {
        return Some(format!("delete it to have it recreated with the new value, or undo the change in {place}"));
    }
    // These list no fields.
    if words.contains("duplicate entries for key") {
        return place.map(|place| format!("give it once, in {place}"));
    }
    if words.contains("failed to create typed patch object") || words.contains("failed to convert new object") {
        return place.map(|place| format!("correct {place}"));
    }
    by_cause(words, place).or_else(|| match (place, fields) {
        (Some(place), [_, ..]) => Some(format!("correct {}", place.fields(path_in(child), fields))),
        _ => None,
    })
}

/// What to do about pods that can't be made, or containers that can't be started, for what these words say.
pub(super) fn by_cause(words: &str, place: Option<&Place>) -> Option<String> {
    let within = |what: &str| place.map(|place| format!("{what}{place}"));
    let or_within = |remedy: String, what: &str| match within(what) {
        Some(alternative) => format!("{remedy}, or {alternative}"),
        None => remedy,
    };
    if words.contains("because it is being terminated") {
        return Some("its namespace is being deleted, and it goes with it".to_owned());
    }
    if let Some(quota) = after(words, "exceeded quota: ") {
        let remedy = format!("make room in ResourceQuota {quota}, or raise it");
        let requested = after_until(words, "requested: ", ", used:").unwrap_or_default();
        let is_of_pods =
            ["cpu", "memory", "storage", "limits.", "requests."].iter().any(|name| requested.contains(name));
        return Some(if is_of_pods { or_within(remedy, "ask for less in ") } else { remedy });
    }
    if let Some(quota) = after(words, "failed quota: ") {
        let missing = format!("what ResourceQuota {quota} demands is missing");
        return Some(
            within("set it as resources of each container in ")
                .map_or(missing.clone(), |set| format!("{missing}: {set}")),
        );
    }
    if words.contains("violates PodSecurity") {
        return within("set what it asks for in ");
    }
    if words.contains("per Container is") || words.contains("per Pod is") || words.contains("limit to request ratio") {
        return Some(or_within("change the LimitRange of the namespace".to_owned(), "correct the resources in "));
    }
    let is_missing = words.contains("not found") || words.contains("was found");
    for (kind, words_before, field) in NAMED {
        if let Some(name) = is_missing.then(|| quoted_after(words, words_before)).flatten() {
            return Some(or_within(format!("create {kind} {name}"), &format!("correct {field} in ")));
        }
    }
    if words.contains("admission webhook") || words.contains("ValidatingAdmissionPolicy") {
        let remedy = "ask who runs this admission check".to_owned();
        return Some(or_within(remedy, "change what it names in "));
    }
    if words.contains("cannot ") && words.contains("User \"") {
        return Some(
            "grant this permission to the ServiceAccount of the operator: the chart renders all of them".to_owned(),
        );
    }
    None
}

/// Objects that pods name, the words before their quoted names where they are missing, and the field that names them.
const NAMED: [(&str, &str, &str); 5] = [
    ("ServiceAccount", "serviceaccount \"", "serviceAccountName"),
    ("Secret", "secret \"", "what names it"),
    ("ConfigMap", "configmap \"", "what names it"),
    ("RuntimeClass", "RuntimeClass \"", "runtimeClassName"),
    ("PriorityClass", "PriorityClass with name ", "priorityClassName"),
];

/// The name that follows.
fn after<'a>(words: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = words.split_once(before)?;
    let end = rest.find([',', ':', ' ']).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

fn after_until<'a>(words: &'a str, before: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = words.split_once(before)?;
    Some(rest.split_once(end).map_or(rest, |(until, _)| until))
}

fn quoted_after<'a>(words: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = words.split_once(before)?;
    let end = rest.find(['"', ' ']).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::dask::{cluster_kind, deployment_kind, service_kind};

    fn owned(kind: &str, name: &str, owner: Option<(&str, &str)>, manager: &str) -> Object {
        let owners: Vec<_> = owner
            .iter()
            .map(|(kind, name)| json!({"apiVersion": "kubernetes.dask.org/v1", "kind": kind, "name": name, "uid": "u", "controller": true}))
            .collect();
        let object: Value = json!({
            "apiVersion": "kubernetes.dask.org/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "n", "ownerReferences": owners,
                "managedFields": [{"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {}}}]},
        });
        Object::from_value(&object).unwrap()
    }

    #[test]
    fn a_remedy_names_the_object_that_a_person_wrote() {
        let group = owned("DaskWorkerGroup", "c-default", Some(("DaskCluster", "c")), "dask-operator/cluster");
        let by_hand = owned("DaskWorkerGroup", "more", Some(("DaskCluster", "c")), "dask-operator/workergroup");
        let cluster = owned("DaskCluster", "c", None, "kubectl");
        let of_job = owned("DaskCluster", "c", Some(("DaskJob", "c")), "dask-operator/job");
        let place = |subject, cluster| Place::of(subject, "spec.worker.spec", cluster).to_string();
        assert_eq!(place(&group, Some(&cluster)), "spec.worker.spec of DaskCluster c");
        assert_eq!(place(&group, None), "spec.worker.spec of DaskCluster c");
        assert_eq!(place(&group, Some(&of_job)), "spec.cluster.spec.worker.spec of DaskJob c");
        assert_eq!(place(&by_hand, Some(&of_job)), "spec.worker.spec of DaskWorkerGroup more");
        assert_eq!(place(&of_job, None), "spec.cluster.spec.worker.spec of DaskJob c");
    }

    #[test]
    fn a_field_is_named_where_a_person_finds_it() {
        let refusal = |child: &GroupVersionKind, section: &str, fields: &[&str]| {
            let fields: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
            let place = Place { path: section.to_owned(), object: "DaskCluster c".to_owned() };
            of_refusal("is invalid", &fields, child, Some(&place))
        };
        let scheduler = |fields: &[&str]| refusal(&deployment_kind(), "spec.scheduler.spec", fields);
        let correct = |what: &str| Some(format!("correct {what} of DaskCluster c"));
        assert_eq!(scheduler(&["spec.template.spec.restartPolicy"]), correct("spec.scheduler.spec.restartPolicy"));
        assert_eq!(
            scheduler(&["spec.template.spec.containers[1].env[3].name", "spec.template.spec.containers[0].image"]),
            correct("spec.scheduler.spec.containers[0].image and spec.scheduler.spec.containers[1].env")
        );
        assert_eq!(scheduler(&["spec.template.metadata.labels"]), correct("spec.scheduler.metadata.labels"));
        assert_eq!(scheduler(&["spec.template.spec"]), correct("spec.scheduler.spec"));
        assert_eq!(scheduler(&[]), None, "what says nothing of a field may have nothing to do with the spec");
        assert_eq!(
            refusal(&service_kind(), "spec.scheduler.service", &["spec.ports[0].port"]),
            correct("spec.scheduler.service.ports[0].port")
        );
        assert_eq!(
            refusal(&cluster_kind(), "spec.cluster.spec", &["spec.worker"]),
            correct("spec.cluster.spec.worker")
        );
    }

    /// The words are those of Kubernetes 1.36.
    #[test]
    fn the_cause_decides_what_helps() {
        let place = Place { path: "spec.worker.spec".to_owned(), object: "DaskCluster c".to_owned() };
        for (words, remedy) in [
            (
                r#"pods "c-x" is forbidden: exceeded quota: q, requested: requests.cpu=4, used: requests.cpu=8, limited: requests.cpu=10"#,
                "make room in ResourceQuota q, or raise it, or ask for less in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"deployments.apps "c-x" is forbidden: exceeded quota: few, requested: count/deployments.apps=1, used: count/deployments.apps=2, limited: count/deployments.apps=2"#,
                "make room in ResourceQuota few, or raise it",
            ),
            (
                r#"pods "c-x" is forbidden: failed quota: q: must specify limits.memory for: dask; requests.cpu for: dask"#,
                "what ResourceQuota q demands is missing: set it as resources of each container in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"pods "c-x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false"#,
                "set what it asks for in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"pods "c-x" is forbidden: error looking up service account n/robot: serviceaccount "robot" not found"#,
                "create ServiceAccount robot, or correct serviceAccountName in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"CreateContainerConfigError: secret "x" not found"#,
                "create Secret x, or correct what names it in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"pods "c-x" is forbidden: no PriorityClass with name high was found"#,
                "create PriorityClass high, or correct priorityClassName in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"pods "c-x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi"#,
                "change the LimitRange of the namespace, or correct the resources in spec.worker.spec of DaskCluster c",
            ),
            (
                r#"deployments.apps "c-x" is forbidden: unable to create new content in namespace n because it is being terminated"#,
                "its namespace is being deleted, and it goes with it",
            ),
            (
                r#"admission webhook "images.example.org" denied the request: no tag"#,
                "ask who runs this admission check, or change what it names in spec.worker.spec of DaskCluster c",
            ),
        ] {
            assert_eq!(by_cause(words, Some(&place)).as_deref(), Some(remedy), "{words}");
        }
        assert_eq!(by_cause("anything else", Some(&place)), None);
    }
}
