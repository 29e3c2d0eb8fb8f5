//! `cargo xtask bench plugins`: what many plugins cost, and how soon what is withdrawn from one is so.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Installation, Operator, apply_objects,
    control_plane::{Binaries, ControlPlane},
    endpoints::{free_port, get, metric},
    wait_for,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Service},
};
use kube::{
    Client,
    api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{
    bounds::Bounds,
    load::namespace,
    process::{Usage, release, usage},
};

/// Requests to the API server at once.
const PARALLEL: usize = 16;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Until the operator has given back what is free of its heap.
const SETTLED: Duration = Duration::from_secs(10);

/// Handlers of each plugin.
const HANDLERS: usize = 6;

/// The figures of busy plugins, each of this size, in bytes.
const CODE: usize = 300 << 10;
const MOST_MEMORY_OF_BUSY: f64 = 30.0;
const MOST_MANAGER: f64 = 1.0;
const MOST_STATUS_WRITES: f64 = 1.0;
const LONGEST_REVOCATION: f64 = 1.0;

/// The figures of many plugins with many objects.
const MOST_MEMORY_OF_MANY: f64 = 150.0;
const LONGEST_UNTIL_SERVED: f64 = 10.0;

#[derive(Args, Debug)]
pub(crate) struct PluginsArgs {
    /// Services.
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Plugins that are called all the time.
    #[arg(long, default_value_t = 100)]
    busy: usize,
    /// Plugins of six handlers each, that are about all Services: every pair of handler and Service is called and remembered.
    #[arg(long, default_value_t = 40)]
    wide: usize,
    /// Plugins of six handlers each, that are about the Services of one namespace each.
    #[arg(long, default_value_t = 200)]
    narrow: usize,
    /// For how many seconds the busy ones are.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Measure this program instead of building one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(crate) fn run(args: PluginsArgs) -> anyhow::Result<()> {
    let program = release(args.program.as_deref())?;
    let guest = dask_operator_componentize::build("odd-guest").map_err(|error| anyhow::anyhow!("{error}"))?;
    let guest = with_six_handlers(fs::read(guest).context("reading the guest")?);
    measure(&args, &program, &guest)
}

struct Bench<'a> {
    args: &'a PluginsArgs,
    program: &'a std::path::Path,
    guest: &'a [u8],
    control_plane: &'a ControlPlane,
    client: Client,
    namespace: String,
    installation: Installation,
    /// Those of the Services; as many as there are plugins that are about one each.
    tenants: Vec<String>,
}

#[tokio::main]
async fn measure(args: &PluginsArgs, program: &std::path::Path, guest: &[u8]) -> anyhow::Result<()> {
    let control_plane = ControlPlane::start(&Binaries::ensure(&|line| eprintln!("{line}"))?, &crds()).await?;
    let client = control_plane.kubeconfig().client().await?;
    let namespace = namespace(&client).await?;
    let installation = Installation::apply(control_plane.kubeconfig(), &namespace, &json!({})).await?;
    let tenants = (0..args.narrow.max(args.busy)).map(|number| format!("tenant-{number}")).collect();
    let bench = Bench { args, program, guest, control_plane: &control_plane, client, namespace, installation, tenants };
    bench.populate().await?;
    let mut bounds = Bounds::default();
    let without = bench.alone().await?;
    bench.busy(without, &mut bounds).await?;
    bench.many(&mut bounds).await?;
    bounds.check()
}

impl Bench<'_> {
    /// Makes the Services.
    async fn populate(&self) -> anyhow::Result<()> {
        let namespaces = self
            .tenants
            .iter()
            .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        apply_objects(&self.client, "default", &namespaces.collect::<Vec<_>>()).await?;
        self.each(self.args.services, async |number| {
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("service-{number}")},
                "spec": {"ports": [{"port": 80}], "clusterIP": "None"},
            });
            let services: Api<Service> = Api::namespaced(self.client.clone(), self.tenant(number));
            services
                .create(&PostParams::default(), &serde_json::from_value(service)?)
                .await
                .context("creating a Service")?;
            Ok(())
        })
        .await
    }

    fn tenant(&self, number: usize) -> &str {
        &self.tenants[number % self.tenants.len()]
    }

    async fn each(&self, count: usize, work: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let work = &work;
        stream::iter(0..count).map(Ok).try_for_each_concurrent(PARALLEL, move |number| work(number)).await
    }

    async fn start(&self) -> anyhow::Result<Running> {
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let arguments =
            ["--all-namespaces", "--operator-namespace", &self.namespace, "--admin-address", &address, "--standalone"];
        let mut operator = Operator::start_program(self.program, &self.installation.kubeconfig, &arguments)?;
        operator.ready().await?;
        Ok(Running { operator, port })
    }

    fn plugins(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("plugins.dask.org", "v1alpha1", "DaskPlugin");
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::from_gvk(&kind))
    }

    /// Makes plugins whose code is in the ConfigMap of this name for each.
    async fn mount(
        &self,
        count: usize,
        code: impl Fn(usize) -> String,
        namespaces: impl Fn(usize) -> Value,
    ) -> anyhow::Result<()> {
        let plugins = self.plugins();
        self.each(count, async |number| {
            let plugin = json!({
                "apiVersion": "plugins.dask.org/v1alpha1", "kind": "DaskPlugin",
                "metadata": {"name": format!("plugin-{number}")},
                "spec": {
                    "source": {"configMap": {"name": code(number)}}, "config": {"do": "Mirror"},
                    "namespaces": namespaces(number),
                },
            });
            plugins
                .create(&PostParams::default(), &serde_json::from_value(plugin)?)
                .await
                .context("creating a DaskPlugin")?;
            Ok(())
        })
        .await
    }

    async fn put_code(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let code = ConfigMap {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            binary_data: Some(BTreeMap::from([("plugin.wasm".to_owned(), ByteString(bytes))])),
            ..ConfigMap::default()
        };
        config_maps.create(&PostParams::default(), &code).await.context("creating the ConfigMap of a plugin")?;
        Ok(())
    }

    /// Removes all plugins, and waits until the operator knows of none.
    async fn unmount(&self, running: &Running) -> anyhow::Result<()> {
        self.plugins()
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .context("deleting the DaskPlugins")?;
        wait_for("the end of the plugins", PATIENCE, async || {
            Ok((metric(&running.metrics().await?, "dask_operator_plugin_calls_total") == 0.0).then_some(()))
        })
        .await
    }

    /// Without any plugin.
    async fn alone(&self) -> anyhow::Result<f64> {
        let mut running = self.start().await?;
        sleep(Duration::from_secs(5)).await;
        let memory = running.usage()?.resident_mib;
        println!("without plugins, {} Services: {memory:.1} MiB", self.args.services);
        running.operator.stop().await?;
        Ok(memory)
    }

    /// Plugins whose subjects change all the time.
    async fn busy(&self, without: f64, bounds: &mut Bounds) -> anyhow::Result<()> {
        let count = self.args.busy;
        let seconds = self.args.seconds as f64;
        self.each(count, async |number| self.put_code(&format!("code-{number}"), padded(self.guest, number)).await)
            .await?;
        let mut running = self.start().await?;
        let own = |number: usize| json!({"names": [self.tenant(number)]});
        self.mount(count, |number| format!("code-{number}"), own).await?;
        running.until_calls(self.calls_of_narrow(count)).await?;
        let (begun, from, before) = (Instant::now(), Timestamp::now(), running.usage()?);
        let managed = metric(&running.metrics().await?, "dask_operator_plugin_manager_busy_seconds_total");
        self.change_services(count, Duration::from_secs(self.args.seconds)).await?;
        let elapsed = begun.elapsed().as_secs_f64();
        let after = running.usage()?;
        let managed = metric(&running.metrics().await?, "dask_operator_plugin_manager_busy_seconds_total") - managed;
        let requests = self.control_plane.audit_log().requests_of(&self.installation.user(), from..)?;
        let writes = requests.iter().filter(|request| request.is_write() && request.uri.contains("/daskplugins/"));
        let writes = writes.count() as f64 / count as f64 / (seconds / 10.0);
        println!(
            "{count} plugins of {} KB, 100 events/s: {:.1} MiB, peak {:.1} MiB; {:.1} % of a core in all",
            CODE >> 10,
            after.resident_mib,
            after.peak_mib,
            100.0 * (after.cpu_seconds - before.cpu_seconds) / elapsed,
        );
        bounds.at_most("busy plugins: MiB more than without", after.resident_mib - without, MOST_MEMORY_OF_BUSY);
        bounds.at_most("busy plugins: % of a core for the manager", 100.0 * managed / elapsed, MOST_MANAGER);
        // The first write of a window may belong to what was before it.
        bounds.at_most("busy plugins: status writes of each in 10 s", writes, MOST_STATUS_WRITES * 1.2);
        let revoked = self.revoke(&running).await?;
        bounds.at_most(
            "busy plugins: until a suspended one is not called, s",
            revoked.as_secs_f64(),
            LONGEST_REVOCATION,
        );
        self.unmount(&running).await?;
        running.operator.stop().await.map(drop)
    }

    /// A hundred changes a second, of the Services of one tenant after the other.
    async fn change_services(&self, tenants: usize, window: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + window;
        let mut ticks = interval(Duration::from_millis(10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut number = 0;
        while Instant::now() < end {
            ticks.tick().await;
            number += 1;
            let services: Api<Service> = Api::namespaced(self.client.clone(), self.tenant(number % tenants));
            let patch = json!({"metadata": {"annotations": {"bench": number.to_string()}}});
            let name = format!("service-{}", number % tenants);
            services.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.context("changing a Service")?;
        }
        Ok(())
    }

    /// Suspends a plugin while the others are busy; answers how long it takes until it is called no more.
    async fn revoke(&self, running: &Running) -> anyhow::Result<Duration> {
        let changes = self.change_services(self.args.busy, Duration::from_secs(5));
        let revocation = async {
            let suspend = json!({"spec": {"suspend": true}});
            let suspended = Instant::now();
            self.plugins()
                .patch("plugin-0", &PatchParams::default(), &Patch::Merge(suspend))
                .await
                .context("suspending a plugin")?;
            wait_for("the end of the calls of a suspended plugin", PATIENCE, async || {
                let is_called =
                    running.metrics().await?.contains("dask_operator_plugin_calls_total{plugin=\"plugin-0\"");
                Ok((!is_called).then(|| suspended.elapsed()))
            })
            .await
        };
        let (revocation, ()) = tokio::try_join!(revocation, changes)?;
        Ok(revocation)
    }

    /// Calls until plugins that are about the Services of one namespace each have handled all of theirs.
    fn calls_of_narrow(&self, count: usize) -> f64 {
        let of_tenant = |tenant: usize| (tenant..self.args.services).step_by(self.tenants.len()).count();
        (HANDLERS * (0..count).map(of_tenant).sum::<usize>()) as f64
    }

    /// Plugins of the same code, with handlers of many objects.
    async fn many(&self, bounds: &mut Bounds) -> anyhow::Result<()> {
        self.put_code("code", self.guest.to_vec()).await?;
        let everywhere = |_: usize| json!({});
        let own = |number: usize| json!({"names": [self.tenant(number)]});
        let of_wide = (self.args.wide * HANDLERS * self.args.services) as f64;
        type Row<'a> = (&'a str, usize, &'a dyn Fn(usize) -> Value, f64);
        let rows: [Row<'_>; 2] = [
            (
                "about the Services of one namespace each",
                self.args.narrow,
                &own,
                self.calls_of_narrow(self.args.narrow),
            ),
            ("about all Services", self.args.wide, &everywhere, of_wide),
        ];
        for (what, count, namespaces, calls) in rows {
            let mut running = self.start().await?;
            let begun = Instant::now();
            self.mount(count, |_| "code".to_owned(), namespaces).await?;
            let mounted = begun.elapsed();
            running.until_calls(calls).await?;
            let served = begun.elapsed() - mounted;
            let there = running.usage()?;
            self.unmount(&running).await?;
            sleep(SETTLED).await;
            let gone = running.usage()?;
            println!(
                "{count} plugins × {HANDLERS} handlers × {} Services, {what}: {calls} calls in {:.1} s; {:.1} MiB, peak {:.1} MiB, \
                 {:.1} MiB after their end",
                self.args.services,
                served.as_secs_f64(),
                there.resident_mib,
                there.peak_mib,
                gone.resident_mib,
            );
            bounds.at_most(&format!("{count} plugins: peak MiB"), there.peak_mib, MOST_MEMORY_OF_MANY);
            if count == self.args.narrow {
                bounds.at_most(
                    &format!("{count} plugins: s until all are served"),
                    served.as_secs_f64(),
                    LONGEST_UNTIL_SERVED,
                );
            }
            running.operator.stop().await?;
        }
        Ok(())
    }
}

/// An operator that is measured.
struct Running {
    operator: Operator,
    port: u16,
}

impl Running {
    async fn metrics(&self) -> anyhow::Result<String> {
        Ok(get(self.port, "/metrics").await?.1)
    }

    async fn until_calls(&self, calls: f64) -> anyhow::Result<()> {
        wait_for(&format!("{calls} calls of plugins"), PATIENCE, async || {
            let made = metric(&self.metrics().await?, "dask_operator_plugin_calls_total");
            Ok((made >= calls).then_some(()))
        })
        .await
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.operator.pid())
    }
}

/// The odd guest, described as one with six handlers of Services: see `tests/guests/odd`.
fn with_six_handlers(mut guest: Vec<u8>) -> Vec<u8> {
    const DESCRIBE: &[u8] = b"what the odd guest says of itself: ";
    let found: Vec<usize> =
        guest.windows(DESCRIBE.len()).enumerate().filter(|(_, window)| *window == DESCRIBE).map(|(at, _)| at).collect();
    for at in found {
        guest[at + DESCRIBE.len()] = b'6';
    }
    guest
}

/// The guest at the size of [`CODE`], different for each number.
fn padded(guest: &[u8], number: usize) -> Vec<u8> {
    let mut padding = b"\x07padding".to_vec();
    padding.extend(number.to_le_bytes());
    let missing = CODE.saturating_sub(guest.len() + padding.len() + 6);
    padding.extend(std::iter::repeat_n(0, missing));
    let mut padded = guest.to_vec();
    padded.push(0);
    // Its length as LEB128, in the longest form.
    for byte in 0..5 {
        let seven = u8::try_from(padding.len() >> (7 * byte) & 0x7f).unwrap_or_default();
        padded.push(if byte < 4 { seven | 0x80 } else { seven });
    }
    padded.extend(padding);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_padded_to_its_size_and_no_two_are_the_same() {
        let guest = b"\0asm\x0d\0\x01\0";
        let one = padded(guest, 1);
        assert_eq!(one.len(), CODE);
        assert_ne!(one, padded(guest, 2));
        assert!(one.starts_with(guest));
    }
}
