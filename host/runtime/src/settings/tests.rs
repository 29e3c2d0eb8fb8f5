//! From the command line to settings: each flag, and what is refused.

use super::*;

fn invocation(line: &str) -> Result<Invocation, String> {
    parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
}

fn run(line: &str) -> RunSettings {
    match invocation(line) {
        Ok(Invocation::Run(settings)) => *settings,
        other => panic!("{line}: {other:?}"),
    }
}

fn refused(line: &str) -> String {
    invocation(line).expect_err(line)
}

fn logs(settings: &RunSettings, target: &str, level: Level) -> bool {
    settings.log.levels.would_enable(target, &level)
}

#[test]
fn defaults() {
    let settings = run("run");
    assert_eq!(settings.scope, Scope::AllNamespaces);
    assert_eq!(settings.leadership, Leadership::Lease);
    assert_eq!(settings.connection, Connection::default());
    assert_eq!(settings.operator_namespace, None);
    assert_eq!(settings.plugins, PluginSources::Enabled { directory: None });
    assert_eq!(settings.environment, Environment::default());
    assert_eq!(settings.admin, None);
    assert_eq!(settings.log.format, LogFormat::Full);
    assert_eq!(settings.ignored, Vec::<&str>::new());
}

#[test]
fn started_as_the_image_of_the_python_operator_is() {
    let settings = run("--liveness=http://0.0.0.0:8080/healthz --verbose --all-namespaces");
    assert_eq!(settings, run("run --liveness=http://0.0.0.0:8080/healthz --verbose --all-namespaces"));
    assert_eq!(settings.scope, Scope::AllNamespaces);
    assert_eq!(settings.admin, Some(AdminEndpoint::at_url("http://0.0.0.0:8080/healthz").unwrap()));
    assert!(logs(&settings, "dask_wasm_operator_core::plan", Level::DEBUG));
}

#[test]
fn started_as_its_chart_does() {
    let settings = run("--liveness=http://0.0.0.0:8080/healthz --all-namespaces");
    assert_eq!(settings.scope, Scope::AllNamespaces);
}

#[test]
fn without_arguments_it_helps() {
    for line in ["", "--help", "-h"] {
        assert!(refused(line).contains("Usage: dask-wasm-operator <COMMAND>"), "{line:?}");
    }
    assert!(refused("--version").starts_with("dask-wasm-operator "));
}

#[test]
fn log_levels() {
    for (line, ours, others) in [
        ("run", Level::INFO, Level::WARN),
        ("run -v", Level::DEBUG, Level::INFO),
        ("run --verbose", Level::DEBUG, Level::INFO),
        ("run -d", Level::DEBUG, Level::DEBUG),
        ("run --debug", Level::DEBUG, Level::DEBUG),
        ("run -q", Level::WARN, Level::WARN),
        ("run --quiet", Level::WARN, Level::WARN),
        // As kopf has it.
        ("run --quiet --verbose", Level::DEBUG, Level::INFO),
    ] {
        let settings = run(line);
        for (target, level) in
            [("dask_wasm_operator", ours), ("dask_wasm_operator_cluster", ours), ("guest", ours), ("kube", others)]
        {
            assert!(logs(&settings, target, level), "{line}: {target}");
            let finer = [Level::INFO, Level::DEBUG, Level::TRACE].into_iter().find(|finer| *finer > level).unwrap();
            assert!(!logs(&settings, target, finer), "{line}: {target}");
        }
    }
}

#[test]
fn a_refused_request_is_logged_by_us_alone_unless_its_client_is_asked_for() {
    for (line, is_heard) in [
        ("run", false),
        ("run -v", false),
        ("run -q", false),
        ("run --log-filter info", false),
        ("run --log-filter info,kube=debug", false),
        ("run -d", true),
        ("run --log-filter info,kube_client=error", true),
        ("run --log-filter warn,kube_client::client=debug", true),
    ] {
        assert_eq!(logs(&run(line), "kube_client::client::builder", Level::ERROR), is_heard, "{line}");
    }
}

#[test]
fn levels_of_events() {
    for (line, level) in [
        ("run", EventLevel::All),
        ("run --event-level INFO", EventLevel::All),
        ("run --event-level Warning", EventLevel::Warnings),
        ("run --event-level ERROR", EventLevel::Nothing),
        ("run --event-level none", EventLevel::Nothing),
        ("run --event-level 0", EventLevel::All),
        ("run --event-level 20", EventLevel::All),
        ("run --event-level 25", EventLevel::Warnings),
        ("run --event-level 30", EventLevel::Warnings),
        ("run --event-level 40", EventLevel::Nothing),
        ("run --events-enabled False", EventLevel::Nothing),
        ("run --events-enabled True --event-level warning", EventLevel::Warnings),
    ] {
        assert_eq!(run(line).events, level, "{line}");
    }
    assert!(refused("run --event-level loud").contains("write info, warning or none"));
}

#[test]
fn log_filter_overrides() {
    let settings = run("run --debug --log-filter warn,dask_wasm_operator_cluster=trace");
    assert!(logs(&settings, "dask_wasm_operator_cluster", Level::TRACE));
    assert!(!logs(&settings, "dask_wasm_operator_core", Level::INFO));
    assert!(refused("run --log-filter a=loud").contains("--log-filter"));
}

#[test]
fn log_formats() {
    for (name, format) in
        [("plain", LogFormat::Plain), ("full", LogFormat::Full), ("json", LogFormat::Json), ("JSON", LogFormat::Json)]
    {
        assert_eq!(run(&format!("run --log-format {name}")).log.format, format);
    }
    assert!(refused("run --log-format xml").contains("[possible values: plain, full, json]"));
}

#[test]
fn scope() {
    let namespaces = |names: &[&str]| Scope::Namespaces(names.iter().map(|&name| name.to_owned()).collect());
    for line in ["run -n team-a", "run --namespace team-a", "run --namespace=team-a -n team-a"] {
        assert_eq!(run(line).scope, namespaces(&["team-a"]), "{line}");
    }
    for line in ["run -n a -n b", "run --namespace=a,b"] {
        assert_eq!(run(line).scope, namespaces(&["a", "b"]), "{line}");
    }
    assert!(matches!(run("run -n team-*").scope, Scope::Matching(_)));
    assert_eq!(run("run -A").scope, Scope::AllNamespaces);
    assert!(refused("run -n Team_A").contains("--namespace \"Team_A\": "));
    assert!(refused("run -n a -A").contains("cannot be used with"));
}

#[test]
fn of_what_is_given_again_the_last_counts_and_lists_grow() {
    let settings = run("run -A --log-format plain --cluster-domain a -v -v --log-format json -A --cluster-domain b");
    assert_eq!(settings.scope, Scope::AllNamespaces);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.environment.cluster_domain, "b");
    assert_eq!(run("run -L http://a:1/a -L http://a:2/a").admin, run("run -L http://a:2/a").admin);
    assert_eq!(run("run -p 1 --priority 2 --peering a -P b").ignored, ["--peering", "--priority"]);
    let prefixes = run("run --excluded-prefix a --excluded-prefix b").environment.excluded_prefixes;
    assert_eq!(prefixes, ["a", "b"]);
    assert_eq!(run("run -n a --namespace b -n c").scope, run("run -n a,b,c").scope);
}

#[test]
fn leadership() {
    assert_eq!(run("run --standalone").leadership, Leadership::Standalone);
}

#[test]
fn health_and_metrics() {
    let endpoint = |settings: RunSettings| settings.admin.unwrap();
    let expected = AdminEndpoint::at_address("127.0.0.1:9090").unwrap();
    assert_eq!(endpoint(run("run --admin-address 127.0.0.1:9090")), expected);
    assert_eq!(endpoint(run("run -L http://127.0.0.1:9090/healthz")), expected);
    assert!(refused("run -L https://127.0.0.1:9090/healthz").contains("--liveness"));
    assert!(refused("run --admin-address 9090").contains("--admin-address"));
    // In either order: the probes of the chart ask the address.
    for line in [
        "run --admin-address 127.0.0.1:9090 -L http://a:1/healthz",
        "run -L http://a:1/healthz --admin-address 127.0.0.1:9090",
    ] {
        let settings = run(line);
        assert_eq!(settings.ignored, ["--liveness"], "{line}");
        assert_eq!(endpoint(settings), expected, "{line}");
    }
}

#[test]
fn flags_without_effect_are_told() {
    for (line, flag) in [
        ("run --log-refkey object", "--log-refkey"),
        ("run --log-prefix", "--log-prefix"),
        ("run --no-log-prefix", "--no-log-prefix"),
        ("run -P dask", "--peering"),
        ("run --peering=dask", "--peering"),
        ("run -p 100", "--priority"),
        ("run --priority -1", "--priority"),
        ("run --dev", "--dev"),
        ("run -m dask_kubernetes.operator.controller", "--module"),
        ("run --module dask_kubernetes.operator.controller", "--module"),
    ] {
        assert_eq!(run(line).ignored, [flag], "{line}");
    }
}

#[test]
fn python_handlers_are_refused_with_a_remedy() {
    let error = refused("run -m my.handlers");
    assert!(error.contains("'my.handlers' for '--module <MODULE>'") && error.contains("plugin"), "{error}");
}

#[test]
fn own_options() {
    let settings = run(
        "run --kubeconfig k --context c --operator-namespace dask --plugin-dir p --cache-dir /c --cluster-domain example.org",
    );
    assert_eq!(settings.connection, Connection { kubeconfig: Some("k".into()), context: Some("c".into()) });
    assert_eq!(settings.operator_namespace.as_deref(), Some("dask"));
    assert_eq!(settings.plugins, PluginSources::Enabled { directory: Some("p".into()) });
    assert_eq!(settings.cache_directory, Path::new("/c"));
    assert_eq!(settings.environment.cluster_domain, "example.org");
    assert_eq!(run("run --disable-plugins").plugins, PluginSources::Disabled);
    assert_eq!(run("run --disable-plugins --plugin-dir p").plugins, PluginSources::Disabled);
    assert!(refused("run --operator-namespace A").contains("--operator-namespace"));
    assert!(refused("run --cluster-domain a..b").contains("--cluster-domain"));
}

#[test]
fn cache_directory_by_default() {
    let with = |variables: &'static [(&str, &str)]| {
        default_cache_directory(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    };
    assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/dask-wasm-operator"));
    assert_eq!(with(&[("HOME", "/h")]), Path::new("/h/.cache/dask-wasm-operator"));
    assert_eq!(with(&[("XDG_CACHE_HOME", "relative"), ("HOME", "")]), env::temp_dir().join("dask-wasm-operator"));
}

#[test]
fn every_option_of_ours_has_an_environment_variable() {
    let help = refused("run --help");
    for option in [
        "ADMIN_ADDRESS",
        "CACHE_DIR",
        "CLUSTER_DOMAIN",
        "CONTEXT",
        "DISABLE_PLUGINS",
        "KUBECONFIG",
        "LIVENESS",
        "LOG",
        "LOG_FORMAT",
        "NAMESPACE",
        "PLUGIN_DIR",
        "STANDALONE",
    ] {
        assert!(help.contains(&format!("[env: DASK_WASM_OPERATOR_{option}=")), "{option}");
    }
    assert!(help.contains("[env: POD_NAMESPACE="));
}

#[test]
fn render() {
    let Ok(Invocation::Render(args)) =
        invocation("render a.yaml b.yaml --plugin x.wasm --plugin y.wasm,y.yaml -o tree")
    else {
        panic!("it parses");
    };
    assert_eq!(args.files, [Path::new("a.yaml"), Path::new("b.yaml")]);
    assert_eq!(args.plugins[0], PluginFiles { wasm: "x.wasm".into(), manifest: None });
    assert_eq!(args.plugins[1], PluginFiles { wasm: "y.wasm".into(), manifest: Some("y.yaml".into()) });
    assert_eq!(args.output, RenderOutput::Tree);
    for line in ["render a.yaml --plugin a,b,c", "render a.yaml --plugin ,b"] {
        assert!(refused(line).contains("X.wasm,plugin.yaml"), "{line}");
    }
    assert!(refused("render").contains("<FILE>"));
}

#[test]
fn unknown_flags_are_refused() {
    let error = parse(["run", "--all-namespace"].map(OsString::from)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--all-namespaces"));
    assert!(matches!(invocation("crds"), Ok(Invocation::Crds)));
}

#[test]
fn a_migration_has_one_direction_and_what_it_needs() {
    let migration = |line: &str| match invocation(line) {
        Ok(Invocation::Migrate(settings)) => settings.migration,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(migration("migrate --from-python --check"), Migration::Check);
    assert_eq!(migration("migrate --from-python --apply"), Migration::Apply);
    assert_eq!(migration("migrate --to-python --crds d"), Migration::ToPython { definitions: Some("d".into()) });
    assert_eq!(migration("migrate --to-python"), Migration::ToPython { definitions: None });
    for line in [
        "migrate",
        "migrate --check",
        "migrate --from-python",
        "migrate --from-python --check --apply",
        "migrate --from-python --check --crds d",
        "migrate --to-python --check --crds d",
        "migrate --to-python --apply",
        "migrate --to-python --from-python --check --crds d",
    ] {
        refused(line);
    }
}
