//! Golden scenarios: manifests in, plan and objects out.
