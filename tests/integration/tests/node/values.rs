//! Values that can't be computed again, on workers that go.

use anyhow::ensure;
use dask_wasm_operator_test_support::dask_image;

use crate::site::{on_node, rounds};

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn fault_01_nothing_is_lost_or_computed_again_from_eight_workers_to_three() -> anyhow::Result<()> {
    let rounds = rounds(20)?;
    on_node(async |site| {
        let told = site.python(include_str!("values.py"), &[&dask_image("2026.3.0"), &rounds.to_string()]).await?;
        println!("{told}");
        ensure!(told.lines().last() == Some("0 lost, 0 computed again"), "{told}");
        Ok(())
    })
    .await
}
