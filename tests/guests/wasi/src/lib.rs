//! A plugin without the SDK that uses WASI, and says what it got.
//!
//! `world.wit` declares the few functions of WASI 0.2 that it uses, as a language's runtime would import them.

#[allow(missing_docs, unsafe_code, clippy::all, unused_qualifications, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: ["../../../wit", "world.wit"], world: "test:wasi-guest/guest", generate_all });

    #[cfg(target_arch = "wasm32")]
    export!(Component with_types_in self);

    #[cfg(target_arch = "wasm32")]
    use super::Component;
}

use serde_json::json;

use self::bindings::{
    dask::operator::types::{Child, HandlerDeclaration, KindReference, Permissions, Subscription, TriggerRequest},
    exports::dask::operator::handler::{Call, Failure, Guest, Manifest, Outcome},
    wasi::{
        cli::{environment, exit, stderr, stdout},
        clocks::{monotonic_clock, timezone, wall_clock},
        filesystem::preopens,
        io::poll,
        random::{insecure_seed, random},
        sockets::{instance_network, ip_name_lookup, tcp_create_socket},
    },
};

/// The plugin.
pub struct Component;

impl Guest for Component {
    fn describe() -> Manifest {
        let kind = KindReference { group: Some(String::new()), version: None, name: "ConfigMap".into() };
        let subscription = Subscription {
            kind,
            namespaces: Vec::new(),
            labels: None,
            annotations: Vec::new(),
            fields: Vec::new(),
            expression: None,
        };
        let handler = HandlerDeclaration {
            name: "look".into(),
            subscription,
            triggers: vec![TriggerRequest::Observed],
            projection: None,
            related: Vec::new(),
        };
        let permissions =
            Permissions { read: Vec::new(), create: Vec::new(), patch: Vec::new(), delete_subject: false };
        Manifest {
            name: "wasi".into(),
            version: "1.0".into(),
            interface_version: "0.1.0".into(),
            handlers: vec![handler],
            permissions,
        }
    }

    fn handle(call: Call) -> Result<Outcome, Failure> {
        match call.config.as_str() {
            "\"exit\"" => exit::exit(Err(())),
            "\"refused\"" => drop(timezone::utc_offset(wall_clock::now())),
            "\"random\"" => drop(random::get_random_bytes(1 << 40)),
            "\"traceback\"" => {
                let error = stderr::get_stderr();
                for part in ["Traceback:\n  File \"plu", "gin.py\", line 12\nValueError", ": boom\n"] {
                    error.blocking_write_and_flush(part.as_bytes()).unwrap_or_default();
                }
                exit::exit(Err(()));
            }
            _ => {}
        }
        Ok(look())
    }
}

fn look() -> Outcome {
    stdout::get_stdout().blocking_write_and_flush(b"looking around").unwrap_or_default();
    let hour = monotonic_clock::subscribe_duration(3_600_000_000_000);
    hour.block();
    let ready = poll::poll(&[&hour, &monotonic_clock::subscribe_instant(u64::MAX)]);
    let now = wall_clock::now();
    let network = instance_network::instance_network();
    let seen = json!({
        "wall": [now.seconds, now.nanoseconds],
        "monotonic": monotonic_clock::now(),
        "ready": ready,
        "environment": environment::get_environment(),
        "arguments": environment::get_arguments(),
        "directory": environment::initial_cwd(),
        "preopens": preopens::get_directories().len(),
        "random": [random::get_random_u64(), insecure_seed::insecure_seed().0],
        "lookup": ip_name_lookup::resolve_addresses(&network, "example.org").err().map(|code| code.name()),
        "socket": tcp_create_socket::create_tcp_socket(tcp_create_socket::IpAddressFamily::Ipv4).err().map(|code| code.name()),
    });
    Outcome {
        children: Some(vec![Child { key: "seen".into(), object: seen.to_string() }]),
        patches: None,
        events: Vec::new(),
        requeue_after: None,
        delete_subject: false,
    }
}
