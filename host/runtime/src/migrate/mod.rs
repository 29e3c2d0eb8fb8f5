//! `migrate`: what a change between the Python operator and this one needs, done once by a person with an administrator's
//! kubeconfig.
//!
//! Called by `execute`. What to say and what to write is decided in [`report`] and [`stamp`]; here is only what reads and
//! writes. It writes definitions, and annotations of kopf; never a spec, a status or anything that a pod depends on.

pub(crate) mod error;
mod objects;
mod report;
mod site;
mod stamp;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context as _;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_core::spec::{DASK_CLUSTER, DASK_JOB};
use serde_json::Value;

use self::{
    error::MigrateError,
    report::Finding,
    site::{Found, Kind, Site},
};
use crate::{
    process::{exit::Failure, stdout::print},
    settings::{Migration, MigrationSettings},
};

/// Does it, and prints a line for everything that was found or done.
pub(crate) fn migrate(settings: MigrationSettings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a thread")?;
    runtime.block_on(async {
        let site = Site::connect(&settings).await?;
        match settings.migration {
            Migration::Check => check(&site).await,
            Migration::Apply => apply(&site).await,
            Migration::ToPython { definitions } => to_python(&site, definitions).await,
        }
    })
}

async fn check(site: &Site) -> Result<(), Failure> {
    let mut findings = Vec::new();
    for (name, definition) in site.definitions().await? {
        findings.push(report::definition(&name, &definition));
    }
    findings.extend(python_operators(site).await?);
    let known = site.known_fields().await;
    let mut count = 0;
    for kind in Kind::DASK {
        let Found { objects, unread } = site.list(kind).await?;
        count += objects.len() + unread.len();
        findings.extend(unread);
        findings.extend(objects.iter().flat_map(|object| report::dask_object(object, &known)));
    }
    let attention = findings.iter().filter(|finding| finding.needs_attention).count();
    let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    print(&format!("{lines}{count} objects of Dask; {attention} findings need attention\n"))?;
    if attention == 0 { Ok(()) } else { Err(MigrateError::Attention { count: attention }.into()) }
}

/// About the Deployments that run the Python operator, or may, because they can't be read. It may run elsewhere: the takeover
/// itself goes by its finalizer.
async fn python_operators(site: &Site) -> Result<Vec<Finding>, Failure> {
    let Found { objects, unread } = site.list(Kind::DEPLOYMENT).await?;
    let running = objects.iter().filter(|deployment| report::runs_python_operator(deployment));
    Ok(running.map(report::python_operator).chain(unread).collect())
}

async fn apply(site: &Site) -> Result<(), Failure> {
    let running = python_operators(site).await?;
    if !running.is_empty() {
        let findings = running.iter().map(|finding| format!("{}: {}", finding.object, finding.message)).collect();
        return Err(MigrateError::PythonRuns { findings }.into());
    }
    let definitions: Result<Vec<_>, _> = crds().into_iter().map(serde_json::to_value).collect();
    install(site, &definitions.context("encoding the definitions")?).await?;
    print("restart the operator if it runs: it reads the CRDs at its start\n")
}

async fn install(site: &Site, definitions: &[Value]) -> Result<(), Failure> {
    for definition in definitions {
        site.install(definition).await?;
    }
    for definition in definitions {
        site.until_served(definition).await?;
        print(&format!("installed  definition {}\n", objects::text(definition, "/metadata/name")))?;
    }
    Ok(())
}

/// Our definitions of the kinds that both operators know, as the Python operator can work with them: it writes statuses as part of
/// their objects, but for that of jobs, which it writes as a subresource.
fn for_python_operator() -> serde_json::Result<Vec<Value>> {
    let shared = crds().into_iter().filter(|definition| definition.spec.group == DASK_CLUSTER.group);
    shared
        .map(|mut definition| {
            let versions = definition.spec.versions.iter_mut();
            if definition.spec.names.kind != DASK_JOB.kind {
                versions.filter_map(|version| version.subresources.as_mut()).for_each(|of| of.status = None);
            }
            serde_json::to_value(definition)
        })
        .collect()
}

async fn to_python(site: &Site, path: Option<PathBuf>) -> Result<(), Failure> {
    let definitions = match path {
        Some(path) => site::read_python_definitions(&path)?,
        None => for_python_operator().context("encoding the definitions")?,
    };
    site.refuse_while_ours_runs().await?;
    // Their definitions hide which jobs are suspended.
    let Found { objects: jobs, unread: mut left } = site.list(Kind::JOB).await?;
    let suspended: BTreeSet<_> = jobs
        .iter()
        .filter(|job| job["spec"]["suspend"] == true)
        .map(|job| format!("{}/{}", objects::text(job, "/metadata/namespace"), objects::text(job, "/metadata/name")))
        .collect();
    install(site, &definitions).await?;
    for kind in Kind::STAMPED {
        let Found { objects, unread } = site.list(kind).await?;
        for object in objects {
            let name = objects::name(&object);
            // A job that can be read only now may be suspended.
            if left.iter().any(|finding| finding.object == name) {
                continue;
            }
            if let Some(patch) = stamp::hand_back(&object, &suspended)
                && let Some(refused) = site.annotate(kind, &object, &patch).await?
            {
                left.push(refused);
            } else if stamp::is_handled(&object, &suspended) {
                print(&format!("kept       {name}\n"))?;
            } else {
                print(&format!("new        {name}: the Python operator will make what belongs to it\n"))?;
            }
        }
        let known: BTreeSet<_> = left.iter().map(|finding| finding.object.clone()).collect();
        left.extend(unread.into_iter().filter(|finding| !known.contains(&finding.object)));
    }
    for job in &suspended {
        print(&format!(
            "attention  DaskJob {job}: is suspended, which the Python operator does not know; it never runs there\n"
        ))?;
    }
    if left.is_empty() {
        return print("start the Python operator now\n");
    }
    print(&left.iter().map(|finding| format!("{finding}\n")).collect::<String>())?;
    Err(MigrateError::Left { count: left.len() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_python_operator_gets_the_status_subresource_that_it_writes_and_no_other() {
        let definitions = for_python_operator().unwrap();
        let with_status: Vec<_> = definitions
            .iter()
            .filter(|definition| site::has_status_subresource(definition))
            .map(|definition| objects::text(definition, "/spec/names/kind"))
            .collect();
        assert_eq!((definitions.len(), with_status), (4, vec!["DaskJob"]));
    }
}
