//! `dask-wasm-operator render`: what comes out for given manifests and plugins, without a cluster.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::{program, workspace};
use insta::assert_snapshot;

/// What one run of `render` came to.
struct Rendered {
    success: bool,
    stdout: String,
    stderr: String,
}

/// Runs `render` with no cluster to talk to and no home but an empty one.
fn render(arguments: &[&str]) -> anyhow::Result<Rendered> {
    let home = tempfile::tempdir()?;
    let output = Command::new(program()?)
        .arg("render")
        .args(arguments)
        .current_dir(workspace().join("tests/scenarios/manifests"))
        .env_clear()
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .output()
        .context("running the operator")?;
    Ok(Rendered {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

fn rendered(arguments: &[&str]) -> anyhow::Result<String> {
    let Rendered { success, stdout, stderr } = render(arguments)?;
    ensure!(success, "{stderr}");
    Ok(stdout)
}

/// What `render` complains of when it fails.
fn complaint(arguments: &[&str]) -> anyhow::Result<String> {
    let Rendered { success, stdout, stderr } = render(arguments)?;
    ensure!(!success, "it succeeded:\n{stdout}");
    Ok(stderr)
}

fn component(package: &str) -> anyhow::Result<&'static Path> {
    type Built = LazyLock<Result<PathBuf, String>>;
    static ISTIO: Built = LazyLock::new(|| build("istio-virtual-service"));
    static ODD: Built = LazyLock::new(|| build("odd-guest"));
    fn build(package: &str) -> Result<PathBuf, String> {
        dask_operator_componentize::build(package).map_err(|error| error.to_string())
    }
    let built = if package == "odd-guest" { &ODD } else { &ISTIO };
    built.as_ref().map(PathBuf::as_path).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The example with its own manifest.
fn istio() -> anyhow::Result<String> {
    let manifest = workspace().join("plugins-examples/istio-virtual-service/plugin.yaml");
    let text = std::fs::read_to_string(&manifest)?;
    // Of the component as it is built here.
    let digest = dask_wasm_operator_test_support::sha256(&std::fs::read(component("istio-virtual-service")?)?);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("istio.yaml");
    std::fs::write(&file, text.replace("SHA256_OF_THE_COMPONENT", &digest))?;
    Ok(format!("--plugin={},{}", component("istio-virtual-service")?.display(), file.display()))
}

/// The odd guest with a manifest beside the others.
fn odd(manifest: &str) -> anyhow::Result<String> {
    Ok(format!("--plugin={},{manifest}", component("odd-guest")?.display()))
}

#[test]
fn a_cluster_as_tree() -> anyhow::Result<()> {
    assert_snapshot!(rendered(&["simple.yaml", "--output=tree"])?);
    Ok(())
}

#[test]
fn a_cluster_and_another_group_as_yaml() -> anyhow::Result<()> {
    assert_snapshot!(rendered(&["simple.yaml", "extra-group.yaml"])?);
    Ok(())
}

#[test]
fn a_plugins_objects_stand_beside_those_of_dask() -> anyhow::Result<()> {
    assert_snapshot!("with_plugin_as_tree", rendered(&["simple.yaml", &istio()?, "--output=tree"])?);
    let yaml = rendered(&["simple.yaml", &istio()?])?;
    let of_plugin = yaml.split("---\n").find(|document| document.contains("kind: VirtualService"));
    assert_snapshot!("virtual_service", of_plugin.context("no VirtualService was made")?);
    Ok(())
}

#[test]
fn children_of_a_plugin_with_default_grants() -> anyhow::Result<()> {
    assert_snapshot!(rendered(&["odd-subject.yaml", &odd("odd-mirror.yaml")?, "--output=tree"])?);
    Ok(())
}

#[test]
fn a_plugin_s_dask_objects_are_made_and_served() -> anyhow::Result<()> {
    let puppet = odd_guest::Description::Puppet.of(&std::fs::read(component("odd-guest")?)?);
    let puppet = format!("--plugin={},dask-kinds.yaml", given("puppet.wasm", puppet)?);
    let tree = rendered(&["simple.yaml", &puppet, "--output=tree"])?;
    for made in
        ["DaskAutoscaler.kubernetes.dask.org team-a/simple", "DaskWorkerGroup.kubernetes.dask.org team-a/simple-extra"]
    {
        let line = tree.lines().find(|line| line.contains(made)).with_context(|| format!("{made}\n{tree}"))?;
        ensure!(line.contains("plugin puppet (cluster)"), "{line}");
    }
    ensure!(tree.contains("Deployment.apps team-a/simple-extra-worker-"), "the group has a worker\n{tree}");
    Ok(())
}

#[test]
fn the_same_input_gives_the_same_output() -> anyhow::Result<()> {
    for format in ["yaml", "json", "tree"] {
        let format = format!("--output={format}");
        let arguments = ["simple.yaml", "extra-group.yaml", "odd-subject.yaml", &odd("odd-mirror.yaml")?, &format];
        assert_eq!(rendered(&arguments)?, rendered(&arguments)?);
    }
    Ok(())
}

#[test]
fn times_that_an_operator_has_noted_are_no_slips() -> anyhow::Result<()> {
    let tree = rendered(&["dumped.yaml", "--output=tree"])?;
    ensure!(tree.contains("DaskCluster.kubernetes.dask.org team-a/job  [dask"), "its deadline is yet to come\n{tree}");
    let dumped = std::fs::read_to_string(workspace().join("tests/scenarios/manifests/dumped.yaml"))?;
    let slip = given("slip.yaml", dumped.replace("2027-04-01T08:00:00Z", "9999-04-01T08:00:00Z"))?;
    let complaint = complaint(&[&slip])?;
    ensure!(complaint.contains(r#"operator.dask.org/taken-over-at is "9999-04-01T08:00:00Z""#), "{complaint}");
    ensure!(complaint.matches("the annotation").count() == 1, "{complaint}");
    Ok(())
}

#[test]
fn an_object_that_nests_too_deep_is_named_and_the_others_are_rendered() -> anyhow::Result<()> {
    let deep = format!("{}1{}", "{a: ".repeat(110), "}".repeat(110));
    let deep = format!(
        "{{apiVersion: kubernetes.dask.org/v1, kind: DaskCluster, metadata: {{name: deep, namespace: team-a}}, spec: {{x: {deep}}}}}"
    );
    let Rendered { success, stdout, stderr } = render(&["simple.yaml", &given("deep.yaml", deep)?, "--output=tree"])?;
    ensure!(!success && stderr.contains("DaskCluster deep: spec.x.a.a"), "{stderr}");
    ensure!(stdout.contains("Deployment.apps team-a/simple-scheduler"), "{stdout}");
    Ok(())
}

#[test]
fn what_it_prints_can_be_given_to_it() -> anyhow::Result<()> {
    let printed = rendered(&["simple.yaml"])?;
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::fs::write(file.path(), &printed)?;
    let again = rendered(&[file.path().to_str().context("the path is text")?, "--output=tree"])?;
    assert_eq!(again.matches("Deployment").count(), 4, "{again}");
    Ok(())
}

#[test]
fn a_flipping_plugin_fails_with_the_field() -> anyhow::Result<()> {
    let complaint = complaint(&["odd-subject.yaml", &odd("odd-flip.yaml")?])?;
    assert_snapshot!(complaint);
    Ok(())
}

#[test]
fn what_is_refused_fails_with_the_reason() -> anyhow::Result<()> {
    assert_snapshot!("ungranted", complaint(&["odd-subject.yaml", &odd("odd-ungranted.yaml")?])?);
    assert_snapshot!("lost_group", complaint(&["lost-group.yaml"])?);
    Ok(())
}

/// Two reconcilers look at a DaskCluster with an idle timeout, and one of them speaks for it.
#[test]
fn what_two_reconcilers_see_is_told_once() -> anyhow::Result<()> {
    let cluster = r#"{
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "simple", "annotations": {"operator.dask.org/paused": "true"}},
        "spec": {
            "idleTimeout": 60,
            "worker": {"spec": {"containers": [{"name": "worker", "image": "dask"}]}},
            "scheduler": {
                "spec": {"containers": [{"name": "scheduler", "image": "dask", "imagePulPolicy": "Always"}]},
                "service": {"ports": [{"port": 8786}]}
            }
        }
    }"#;
    let told = complaint(&[&given("paused-and-idle.json", cluster)?])?;
    assert_eq!(told.matches("imagePulPolicy").count(), 1, "{told}");
    Ok(())
}

#[test]
fn fields_that_kubernetes_does_not_know_are_left_out_and_named() -> anyhow::Result<()> {
    let Rendered { success, stdout, stderr } = render(&["typos.yaml"])?;
    ensure!(!success);
    for path in [
        "spec.scheduler.spec.containers[0].imagePullSecrets",
        "spec.scheduler.service.port",
        "spec.worker.spec.containers[0].resources.limit",
    ] {
        ensure!(stderr.contains(path), "no {path} in {stderr}");
    }
    let made: Vec<_> = stdout.split("---\n").filter(|object| !object.contains("\nkind: Dask")).collect();
    ensure!(made.iter().any(|object| object.contains("kind: Deployment")), "{stdout}");
    for typo in ["imagePullSecrets", "limit:"] {
        ensure!(made.iter().all(|object| !object.contains(typo)), "{typo} in {stdout}");
    }
    Ok(())
}

/// A file beside the manifests, for one test.
fn given(name: &str, text: impl AsRef<[u8]>) -> anyhow::Result<String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text)?;
    Ok(file.display().to_string())
}

#[test]
fn manifests_come_as_documents_and_lists_in_any_version_that_is_served() -> anyhow::Result<()> {
    let widgets = given(
        "widgets.yaml",
        "apiVersion: v1
kind: List
items:
- apiVersion: apiextensions.k8s.io/v1
  kind: CustomResourceDefinition
  metadata: {name: widgets.x.io}
  spec:
    group: x.io
    scope: Namespaced
    names: {kind: Widget, plural: widgets, shortNames: [wd]}
    versions:
    - {name: v1beta1, served: true, storage: false}
    - {name: v1, served: true, storage: true}
- apiVersion: x.io/v1beta1
  kind: Widget
  metadata: {name: listed}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: everywhere}
rules: []
---
apiVersion: v1
kind: ConfigMapList
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: in-typed-list, labels: {odd: 'yes'}}, data: {key: value}}
",
    )?;
    let tree = rendered(&[&widgets, &odd("odd-mirror.yaml")?, "--output=tree"])?;
    for line in [
        "ClusterRole.rbac.authorization.k8s.io everywhere  [given]",
        "ConfigMap default/in-typed-list  [given]",
        "└─ ConfigMap default/in-typed-list-key  [plugin mirror (odd)]",
        "Widget.x.io default/listed  [given]",
    ] {
        ensure!(tree.lines().any(|printed| printed == line), "{line}\n{tree}");
    }
    Ok(())
}

#[test]
fn a_component_may_be_packed() -> anyhow::Result<()> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&std::fs::read(component("odd-guest")?)?)?;
    let packed = format!("--plugin={},odd-mirror.yaml", given("odd.wasm.gz", packed.finish()?)?);
    let arguments = ["odd-subject.yaml", &packed, "--output=tree"];
    assert_eq!(rendered(&arguments)?, rendered(&["odd-subject.yaml", &odd("odd-mirror.yaml")?, "--output=tree"])?);
    Ok(())
}

#[test]
fn what_would_not_be_called_fails_with_the_reason() -> anyhow::Result<()> {
    for (name, field, says) in [
        ("suspended", "suspend: true", "plugin suspended would not be called: spec.suspend is true"),
        ("shadow", "mode: shadow", "this version of the operator does not serve: spec.mode: shadow"),
        ("yielding", "onConflict: yield", "this version of the operator does not serve: spec.onConflict: yield"),
        ("a.b", "suspend: false", "plugin a.b would not be called: metadata.name"),
    ] {
        let manifest =
            format!("{{kind: DaskPlugin, metadata: {{name: {name}}}, spec: {{config: {{do: Mirror}}, {field}}}}}");
        let manifest = given(&format!("{name}.yaml"), manifest)?;
        let complaint = complaint(&["odd-subject.yaml", &odd(&manifest)?])?;
        ensure!(complaint.contains(says), "{name}: {complaint}");
    }
    Ok(())
}

#[test]
fn bad_input_is_named() -> anyhow::Result<()> {
    let no_yaml = given("no-yaml.yaml", "kind: ConfigMap\nmetadata:\n  name: [a\ndata: {}\n")?;
    let unknown = given("unknown.yaml", "{apiVersion: x.io/v1, kind: Widget, metadata: {name: a}}")?;
    let old = given("old.yaml", "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a}}")?;
    let nameless = given("nameless.yaml", "{apiVersion: v1, kind: ConfigMap}")?;
    for (arguments, says) in [
        (vec!["absent.yaml"], "reading absent.yaml"),
        (vec!["simple.yaml", "--plugin=absent.wasm"], "reading absent.wasm"),
        (vec!["simple.yaml", "--plugin=simple.yaml"], "plugin simple (simple.yaml)"),
        (vec!["odd-mirror.yaml"], "a DaskPlugin goes beside its component: --plugin X.wasm,odd-mirror.yaml"),
        (vec![], "<FILE>"),
        (vec![&*no_yaml], "no-yaml.yaml is no YAML"),
        (vec![&*no_yaml], "line 4 column 5"),
        (vec![&*unknown], "unknown.yaml: the kind Widget.x.io is not known; give its CustomResourceDefinition too"),
        (
            vec![&*old],
            "old.yaml: the kind HorizontalPodAutoscaler.autoscaling is not known in version \"v1\", but in v2",
        ),
        (vec![&*nameless], "nameless.yaml: metadata.name is missing"),
    ] {
        let complaint = complaint(&arguments)?;
        ensure!(complaint.contains(says), "{arguments:?}: {complaint}");
    }
    Ok(())
}
