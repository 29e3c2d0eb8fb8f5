//! Exposes the dashboard of every Dask cluster through an Istio VirtualService.
