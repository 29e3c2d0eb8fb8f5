//! Real Dask in real pods that the operator makes: the unchanged Python client, and nothing lost when workers go.

mod chart;
mod client;
mod python_tests;
mod site;
mod values;
