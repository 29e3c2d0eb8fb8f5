//! Custom resource definitions of other projects, read from their Go modules at the version pinned in
//! tests/local-kubernetes/third-party-crds. Nothing of them is stored in this repository.

use std::fs;

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::go::PinnedModule;

/// A project whose custom resources tests and the demo create.
#[derive(Clone, Copy, Debug)]
pub enum ThirdParty {
    /// Istio: VirtualService and its kin.
    Istio,
}

impl ThirdParty {
    fn module(self) -> PinnedModule {
        let path = match self {
            Self::Istio => "istio.io/api",
        };
        PinnedModule { directory: "third-party-crds", path }
    }

    /// The file in the module that has all of its CRDs.
    fn file(self) -> &'static str {
        match self {
            Self::Istio => "kubernetes/customresourcedefinitions.gen.yaml",
        }
    }
}

/// All CRDs of a project. The first time, Go downloads the module and verifies its checksum.
///
/// # Errors
/// When Go is missing, or the module cannot be downloaded.
pub fn third_party_crds(project: ThirdParty) -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let file = project.module().sources()?.join(project.file());
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("parsing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_has_virtual_services() {
        let crds = third_party_crds(ThirdParty::Istio).unwrap();
        assert!(crds.iter().any(|crd| crd.spec.names.kind == "VirtualService"));
    }
}
