//! Real Dask as plain processes on the loopback interface, from its packages.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{control_plane::supervised, python, wait_for};

/// How long a process may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The HTTP routes that schedulers have by themselves, and the API, which they have not.
const ROUTES_WITH_API: &str = r#"["distributed.http.scheduler.prometheus", "distributed.http.scheduler.info",
    "distributed.http.scheduler.json", "distributed.http.health", "distributed.http.scheduler.api"]"#;

/// A release of Dask, in a Python environment of its own that is kept.
pub struct Dask {
    environment: PathBuf,
}

/// How a scheduler is started.
#[derive(Default)]
pub struct DaskOptions {
    /// Whether it has the HTTP API.
    pub with_api: bool,
    /// Certificates for TLS; none: plain TCP.
    pub certificates: Option<DaskCertificates>,
}

/// A scheduler with its workers. They end with this value.
pub struct DaskProcesses {
    dask: Dask,
    directory: TempDir,
    options: DaskOptions,
    contact: Contact,
    processes: Vec<Process>,
}

/// What a scheduler writes into its `--scheduler-file`, as far as it is needed.
#[derive(Deserialize)]
struct Contact {
    address: String,
    services: Services,
}

#[derive(Deserialize)]
struct Services {
    dashboard: u16,
}

impl Dask {
    /// The oldest release that is supported.
    pub const OLDEST: &str = "2022.8.1";
    /// The newest release that is supported.
    pub const NEWEST: &str = "2026.8.0";

    /// Installs a release, unless it is there. Several processes may call this at the same time.
    ///
    /// # Errors
    /// When there is no Python 3 with venv, or pip fails.
    pub fn install(version: &str) -> anyhow::Result<Self> {
        let environment = python::environment(&format!("dask-{version}"), &[&format!("distributed=={version}")])?;
        Ok(Self { environment })
    }

    /// The directory of the Python environment.
    pub(crate) fn environment(&self) -> &Path {
        &self.environment
    }

    /// Starts a scheduler without workers, on ports that are free.
    ///
    /// # Errors
    /// When it ends or does not listen in time; the message has its log.
    pub async fn start(self, options: DaskOptions) -> anyhow::Result<DaskProcesses> {
        let directory = tempfile::tempdir().context("making a directory")?;
        let file = directory.path().join("scheduler.json");
        let mut command = self.program(["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]);
        command.args(["--dashboard-address", "127.0.0.1:0", "--scheduler-file"]).arg(&file);
        if options.with_api {
            command.env("DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES", ROUTES_WITH_API);
        }
        if let Some(certificates) = &options.certificates {
            command.args(["--protocol", "tls"]).args(certificates.store(directory.path())?);
        }
        let mut process = Process::start(&mut command, directory.path(), "scheduler")?;
        let contact = wait_for("the scheduler's address", START, async || {
            process.ensure_running()?;
            // It is written piece by piece.
            Ok(fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()))
        });
        let contact = contact.await?;
        Ok(DaskProcesses { dask: self, directory, options, contact, processes: vec![process] })
    }

    fn python(&self) -> PathBuf {
        self.environment.join("bin/python")
    }

    /// A program of Dask that ends with this process, whatever ends that.
    fn program<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = supervised("dask", &self.python());
        command.args(arguments);
        command
    }
}

impl DaskProcesses {
    /// `HOST:PORT` of the comm port.
    pub fn comm(&self) -> &str {
        self.contact.address.rsplit('/').next().unwrap_or_default()
    }

    /// `HOST:PORT` of the HTTP server.
    pub fn dashboard(&self) -> String {
        format!("127.0.0.1:{}", self.contact.services.dashboard)
    }

    /// Where the processes write their files, and where their packages are.
    pub fn directories(&self) -> [&Path; 2] {
        [self.directory.path(), &self.dask.environment]
    }

    /// The certificates that it was started with.
    pub fn certificates(&self) -> Option<&DaskCertificates> {
        self.options.certificates.as_ref()
    }

    /// Starts a worker of one thread. It registers some time later.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn add_worker(&mut self, name: &str) -> anyhow::Result<()> {
        self.add_workers(name, &["--no-nanny"])
    }

    /// Starts workers of one thread each with further arguments, such as `--nworkers 2`.
    ///
    /// # Errors
    /// When they can't be started.
    pub fn add_workers(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let directory = self.directory.path();
        let mut command = self.dask.program(["-m", "distributed.cli.dask_worker", &self.contact.address]);
        command.args(["--name", name, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]).args(arguments);
        command.arg("--local-directory").arg(directory);
        if let Some(certificates) = &self.options.certificates {
            command.args(certificates.store(directory)?);
        }
        self.processes.push(Process::start(&mut command, directory, name)?);
        Ok(())
    }

    /// Ends the workers that were started by this name, as SIGKILL does.
    pub fn kill_workers(&mut self, name: &str) {
        self.processes.retain(|process| process.name != name);
    }

    /// Runs a Python script with a `client` that is connected to the scheduler, and returns what it prints. What the script
    /// makes is forgotten at its end unless it is published.
    ///
    /// # Errors
    /// When the script fails; the message has what it wrote to stderr.
    pub fn run(&self, script: &str) -> anyhow::Result<String> {
        let script = format!("from distributed import Client\nclient = Client({:?})\n{script}", self.contact.address);
        let output = Command::new(self.dask.python())
            .args(["-c", &script])
            .stdin(Stdio::null())
            .output()
            .context("starting Python")?;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A process of Dask with its children, in a group of its own.
struct Process {
    name: String,
    child: Child,
    _lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, directory: &Path, name: &str) -> anyhow::Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let mut child = command
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), _lifeline: child.stdin.take(), child, log: path })
    }

    fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("looking at a process")? {
            bail!("{} has ended with {status}: {}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// An authority and a certificate that it signed, for a scheduler, its workers and its clients alike, as is usual with Dask. The
/// certificate names no host.
pub struct DaskCertificates {
    /// PEM.
    pub authority: String,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub private_key: String,
}

impl DaskCertificates {
    /// New ones.
    ///
    /// # Errors
    /// When they can't be made.
    pub fn generate() -> anyhow::Result<Self> {
        let authority_key = KeyPair::generate().context("making the key of the authority")?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).context("making the authority")?;
        let issuer = Issuer::new(parameters, authority_key);
        let key = KeyPair::generate().context("making a key")?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "dask");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &issuer).context("making a certificate")?;
        Ok(Self { authority: authority.pem(), certificate: certificate.pem(), private_key: key.serialize_pem() })
    }

    /// One that signs itself and is its own authority.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn self_signed() -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("making a key")?;
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).context("making a certificate")?.pem();
        Ok(Self { authority: certificate.clone(), certificate, private_key: key.serialize_pem() })
    }

    /// Writes them to files, and returns the arguments that name these.
    fn store(&self, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut arguments = Vec::new();
        for (argument, text) in
            [("--tls-ca-file", &self.authority), ("--tls-cert", &self.certificate), ("--tls-key", &self.private_key)]
        {
            let path = directory.join(format!("{}.pem", &argument[2..]));
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            arguments.extend([PathBuf::from(argument), path]);
        }
        Ok(arguments)
    }
}
