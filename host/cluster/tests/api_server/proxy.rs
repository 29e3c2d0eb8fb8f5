//! A way to the API server that can be cut: to a client the same as a server that went away.

use std::net::SocketAddr;

use anyhow::Context;
use dask_wasm_operator_test_support::Kubeconfig;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Forwards connections while it is up.
pub(crate) struct Proxy {
    up: watch::Sender<bool>,
    address: SocketAddr,
}

impl Proxy {
    /// In front of the server of a kubeconfig.
    pub(crate) async fn start(kubeconfig: &Kubeconfig) -> anyhow::Result<Self> {
        let server = kubeconfig.as_str().split("https://").nth(1).context("the kubeconfig has no server")?;
        let server: String = server.chars().take_while(|character| !"\"'/\n ".contains(*character)).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (up, is_up) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, mut is_up) = (server.clone(), is_up.clone());
                tokio::spawn(forward(client, server, async move {
                    let _ = is_up.wait_for(|up| !up).await;
                }));
            }
        });
        Ok(Self { up, address })
    }

    /// The kubeconfig for the way through here.
    pub(crate) fn kubeconfig(&self, kubeconfig: &Kubeconfig) -> anyhow::Result<Kubeconfig> {
        kubeconfig.with_server(&format!("https://{}", self.address))
    }

    /// Ends all connections, and new ones as soon as they come.
    pub(crate) fn cut(&self) {
        self.up.send_replace(false);
    }

    /// Forwards again.
    pub(crate) fn mend(&self) {
        self.up.send_replace(true);
    }
}

async fn forward(mut client: TcpStream, target: String, cut: impl Future<Output = ()>) {
    let both = async {
        let mut server = TcpStream::connect(target).await?;
        copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        _ = both => {}
        () = cut => {}
    }
}
