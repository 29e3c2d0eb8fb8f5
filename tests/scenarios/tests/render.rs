//! `dask-wasm-operator render`: what comes out for given manifests and plugins, without a cluster.

use std::{
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
fn the_same_input_gives_the_same_output() -> anyhow::Result<()> {
    for format in ["yaml", "json", "tree"] {
        let format = format!("--output={format}");
        let arguments = ["simple.yaml", "extra-group.yaml", "odd-subject.yaml", &odd("odd-mirror.yaml")?, &format];
        assert_eq!(rendered(&arguments)?, rendered(&arguments)?);
    }
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

#[test]
fn bad_input_is_named() -> anyhow::Result<()> {
    for (arguments, says) in [
        (vec!["absent.yaml"], "reading absent.yaml"),
        (vec!["simple.yaml", "--plugin=absent.wasm"], "reading absent.wasm"),
        (vec!["simple.yaml", "--plugin=simple.yaml"], "plugin simple (simple.yaml)"),
        (vec!["odd-mirror.yaml"], "a DaskPlugin goes beside its component: --plugin X.wasm,odd-mirror.yaml"),
        (vec![], "<FILE>"),
    ] {
        let complaint = complaint(&arguments)?;
        ensure!(complaint.contains(says), "{arguments:?}: {complaint}");
    }
    Ok(())
}
