;; Exports the handler of another minor version.
(component
  (instance $handler)
  (export "dask:operator/handler@0.2.0" (instance $handler)))
